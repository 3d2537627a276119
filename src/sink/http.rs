//! The HTTP client of the sinks: what an answer means, and nothing followed.

use super::remote::Trouble;
use crate::host::proxy_to;
use chrono::DateTime;
use serde_json::Value;
use std::fmt::Write;
use std::io::Read;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, TlsConfig};

/// How long a call may take.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read, unless more are expected.
const ANSWER_MAX: u64 = 1 << 20;

/// A client.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    most: u64,
}

/// An answer: its status and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, as far as it is text, and at most as long as the client reads (1 MiB).
    pub body: String,
    /// It was longer.
    pub cut: bool,
    /// What `Retry-After` says, in seconds or as a date.
    pub retry_after: Option<Duration>,
}

/// A call's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
}

impl Client {
    /// A client that trusts the usual authorities or, with `ca`, only the certificates in that PEM
    /// file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn new(ca: Option<&str>) -> Result<Self, String> {
        Self::patient(ca, None, TIMEOUT)
    }

    /// The same that shows a certificate, whose file and whose key's are named, and with another time for
    /// a whole call.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn patient(
        ca: Option<&str>,
        shows: Option<(&str, &str)>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = ca {
            tls = tls.root_certs(certificates("ca", path)?.into());
        }
        if let Some((certificate, key)) = shows {
            let (chain, private) = (certificates("cert", certificate)?, private(key)?);
            fits(&chain, &private).map_err(|why| {
                format!("`cert` {certificate} and `key` {key} cannot be shown: {why}")
            })?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, private)));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            // Whoever sends us elsewhere might have us sign for somebody else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.into(), most: ANSWER_MAX })
    }

    /// The same for answers of up to `most` bytes.
    pub fn reading(self, most: u64) -> Self {
        Self { most, ..self }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// [`Trouble::Later`] when there is no answer.
    pub fn call(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, Trouble> {
        let method = match method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        };
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let wrong = |error: ureq::http::Error| Trouble::refused(format!("{error}"));
        let sent = match body {
            Some(body) => self.run(url, request.body(body).map_err(wrong)?),
            None => self.run(url, request.body(()).map_err(wrong)?),
        };
        let mut answer = sent.map_err(|error| Trouble::later(error.to_string()))?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header("retry-after").and_then(|text| pause(text, header("date")));
        let status = answer.status().as_u16();
        // What the answer means stands at its beginning, if anywhere.
        let mut body = Vec::new();
        let read = answer.body_mut().as_reader().take(self.most + 1).read_to_end(&mut body);
        read.map_err(|error| Trouble::later(error.to_string()))?;
        let most = usize::try_from(self.most).unwrap_or(usize::MAX);
        let cut = body.len() > most;
        body.truncate(most);
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, body, cut, retry_after })
    }

    fn run(
        &self,
        url: &str,
        request: ureq::http::Request<impl ureq::AsSendBody>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request).proxy(proxy_to(url)).build();
        self.agent.run(request)
    }
}

fn pem(what: &str, path: &str) -> Result<Vec<PemItem<'static>>, String> {
    let text = std::fs::read(path).map_err(|error| format!("`{what}` {path}: {error}"))?;
    Ok(ureq::tls::parse_pem(&text).filter_map(Result::ok).collect())
}

fn certificates(what: &str, path: &str) -> Result<Vec<Certificate<'static>>, String> {
    let found = pem(what, path)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(format!("`{what}` {path}: there is no certificate in it"));
    }
    Ok(found)
}

fn private(path: &str) -> Result<PrivateKey<'static>, String> {
    let found = pem("key", path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.ok_or_else(|| format!("`key` {path}: there is no private key in it"))
}

/// Whether a key is that of a certificate, and both are of a kind that can be used.
fn fits(chain: &[Certificate<'_>], key: &PrivateKey<'_>) -> Result<(), String> {
    let chain = chain.iter().map(|one| CertificateDer::from(one.der()).into_owned()).collect();
    let key = PrivateKeyDer::try_from(key.der()).map_err(str::to_owned)?.clone_key();
    let fit = CertifiedKey::from_der(chain, key, &ring::default_provider());
    fit.map(drop).map_err(|error| error.to_string())
}

/// How long `Retry-After` asks to wait: so many seconds, or until a date, by the clock of who answered.
fn pause(text: &str, date: Option<&str>) -> Option<Duration> {
    let instant = |text: &str| DateTime::parse_from_rfc2822(text.trim()).ok();
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    #[expect(clippy::disallowed_methods, reason = "a server without a clock has ours")]
    let sent = || DateTime::<chrono::Utc>::from(SystemTime::now()).fixed_offset();
    let wait = instant(text)? - date.and_then(instant).unwrap_or_else(sent);
    Some(wait.to_std().unwrap_or_default())
}

impl Answer {
    /// Whether it is 2xx.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The document that it is, or `Null`.
    ///
    /// # Errors
    /// When it is too long to be read, as it would be the next time.
    pub fn json(&self) -> Result<Value, Trouble> {
        if self.cut {
            return Err(Trouble::refused(format!("the answer is longer than {ANSWER_MAX} bytes")));
        }
        Ok(serde_json::from_str(&self.body).unwrap_or_default())
    }

    /// What an answer that is not 2xx means: 408, 425, 429 and 5xx may pass; any other is refused.
    pub fn trouble(&self) -> Trouble {
        let why = format!("the answer was {}{}", self.status, self.told());
        match self.status {
            408 | 425 | 429 | 500.. => Trouble::Later { why, after: self.retry_after },
            _ => Trouble::Refused { why },
        }
    }

    /// The beginning of the body, for a message.
    fn told(&self) -> String {
        let text: String = self.body.chars().filter(|c| !c.is_control()).take(200).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

/// A text as it may stand in a path or as a value in a query.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_document_is_none_and_would_be_the_next_time() {
        let answer =
            |body: &str, cut| Answer { status: 200, body: body.into(), cut, retry_after: None };
        assert_eq!(answer("{}", false).json(), Ok(serde_json::json!({})));
        assert_eq!(answer("{", false).json(), Ok(Value::Null));
        assert!(matches!(answer("{}", true).json(), Err(Trouble::Refused { .. })));
    }

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date() {
        let date = Some("Sun, 30 Nov 2025 08:00:00 GMT");
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 30 Nov 2025 08:01:20 GMT", Some(80)),
            // It is over.
            ("Sun, 30 Nov 2025 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-3", None),
        ] {
            assert_eq!(pause(text, date), seconds.map(Duration::from_secs), "{text}");
        }
        // Without a date of its own.
        assert!(pause("Sat, 30 Nov 2999 08:00:00 GMT", None) > Some(Duration::from_secs(1 << 30)));
        assert_eq!(pause("Sun, 30 Nov 2025 07:00:00 GMT", Some("?")), Some(Duration::ZERO));
    }
}
