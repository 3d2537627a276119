//! HTTP: what is in force, for those who enforce it, and a door for operators.
//!
//! One thread with a runtime of its own answers everybody; nothing that it does can hold the stream
//! up. [`http`] takes connections, [`auth`] says who may ask for what by the one [table of
//! routes](routes), and each of the others answers some of them. Whoever has shown no token costs
//! next to nothing: no body of his is read, and he is the first to go when connections are scarce.

pub mod api;
pub mod auth;
pub mod blocklist;
pub mod http;
pub mod lapi;
pub mod metrics;
pub mod openapi;
pub mod reply;
pub mod routes;
pub mod target;

use crate::action::escape;
use crate::action::order::Carried;
use crate::config::size;
use crate::decide::board::Board;
use crate::engine::ask::Asker;
use crate::host::is_this_machine;
use crate::yaml::{Checker, Document, Key, Kind, Node, Place, Problem};
use auth::{Access, TokenConfig};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Where it listens unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:7979";
/// The variable in which platforms (Railway, Heroku, Cloud Run) say on which port to listen.
pub const PORT_VARIABLE: &str = "PORT";

/// The key `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to listen, `host:port`.
    pub listen: String,
    /// `listen` was written, so the variable `PORT` changes nothing.
    pub listen_written: bool,
    /// Who may ask.
    pub tokens: Vec<TokenConfig>,
    /// Whoever is on this machine may do everything without a token.
    pub insecure_loopback: bool,
    /// TLS.
    pub tls: Option<TlsConfig>,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// How long a client may take for each part of a request, and an answer may take.
    pub timeout: Duration,
}

/// The key `serve.tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file with the certificate and those between it and the authority.
    pub cert: PathBuf,
    /// A PEM file with its key.
    pub key: PathBuf,
    /// A PEM file with the authorities whose certificates clients must show.
    pub client_ca: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: LISTEN.to_owned(),
            listen_written: false,
            tokens: Vec::new(),
            insecure_loopback: false,
            tls: None,
            max_connections: 256,
            max_body: 1 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// The keys of `serve`.
const KEYS: [&str; 7] =
    ["listen", "tokens", "insecure_loopback", "tls", "max_connections", "max_body", "timeout"];

impl ServeConfig {
    /// Reads the key; what it does not say stays as `before`.
    pub fn parse(
        checker: &mut Checker<'_>,
        key: &Key,
        value: &Node,
        before: Option<Self>,
    ) -> Option<Self> {
        if value.is_off() {
            return None;
        }
        let mut config = before.unwrap_or_default();
        let mut listen = None;
        for (key, value) in checker.map(value, "`serve`", &KEYS) {
            let what = format!("`serve.{}`", key.name);
            match key.name.as_str() {
                "listen" => {
                    listen = Some(value);
                    config.listen_written = true;
                    if let Some(text) = checker.text(value, &what) {
                        config.listen = text;
                    }
                    if let Err(why) = split(&config.listen) {
                        let help = "for example 127.0.0.1:7979, [::1]:7979 or 0.0.0.0:7979";
                        checker.node(value, format!("{what}: {why}"), Some(help.into()));
                    }
                }
                "tokens" => config.tokens = auth::tokens(checker, value),
                "insecure_loopback" => {
                    config.insecure_loopback = checker.bool(value, &what).unwrap_or(false);
                }
                "tls" => config.tls = tls(checker, key, value),
                "max_connections" => {
                    if let Some(n) = checker.int(value, &what, 4..=65_536) {
                        config.max_connections = usize::try_from(n).unwrap_or(4);
                    }
                }
                "max_body" => {
                    if let Some(n) = size(checker, value, &what, 1 << 10, 64 << 20) {
                        config.max_body = n;
                    }
                }
                "timeout" => {
                    if let Some(n) = checker.duration(value, &what, 1_000_000) {
                        config.timeout = Duration::from_micros(n.unsigned_abs());
                    }
                }
                _ => {}
            }
        }
        config.check(|message, help| match listen {
            Some(node) => checker.node(node, message, Some(help.into())),
            None => checker.key(key, message, Some(help.into())),
        });
        Some(config)
    }

    /// Listens on every address at the port that the variable `PORT` names, unless `listen` was
    /// written; an empty one names none. Gives what is wrong with it.
    pub fn listen_at(&mut self, port: &str) -> Vec<Problem> {
        if self.listen_written || port.trim().is_empty() {
            return Vec::new();
        }
        let document = Document {
            name: format!("environment variable {PORT_VARIABLE}"),
            text: format!("{PORT_VARIABLE}: {port}\n"),
        };
        let mut checker = Checker::new(&document);
        let place = Place { line: 1, column: PORT_VARIABLE.len() + 3 };
        let mut tell = |message: String, help: &str| {
            checker.at(place, port.chars().count(), message, Some(help.into()));
        };
        match port.trim().parse::<u16>() {
            Ok(number) if number > 0 => {
                // IPv4 comes in by the same door.
                self.listen = format!("[::]:{number}");
                self.check(tell);
            }
            _ => tell(
                format!("`{PORT_VARIABLE}` is no port: `serve` would listen there"),
                "a number from 1 to 65535; or write `serve.listen`, for example 127.0.0.1:7979, which goes before PORT",
            ),
        }
        checker.problems
    }

    /// What does not fit together.
    fn check(&self, mut tell: impl FnMut(String, &str)) {
        if is_loopback(&self.listen) {
            return;
        }
        if self.tokens.is_empty() {
            tell(
                format!("`serve.listen`: {} is open to others, and there is no token", self.listen),
                "add `tokens: [{ name: ops, role: operator, token: { env: OPS_TOKEN } }]`, or write `listen: 127.0.0.1:7979`",
            );
        }
        if self.insecure_loopback {
            tell(
                format!("`serve.insecure_loopback` opens all to whoever reaches {}", self.listen),
                "listen on 127.0.0.1 or [::1], or take `insecure_loopback` out",
            );
        }
    }
}

fn tls(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<TlsConfig> {
    if value.is_off() {
        return None;
    }
    let mut tls = TlsConfig::default();
    for (key, value) in checker.map(value, "`serve.tls`", &["cert", "key", "client_ca"]) {
        let path = checker.text(value, &format!("`serve.tls.{}`", key.name)).map(PathBuf::from);
        match key.name.as_str() {
            "cert" => tls.cert = path.unwrap_or_default(),
            "key" => tls.key = path.unwrap_or_default(),
            "client_ca" => tls.client_ca = path,
            _ => {}
        }
    }
    if value.kind == Kind::Null || value.get("cert").is_none() || value.get("key").is_none() {
        let help = "for example tls: { cert: server.pem, key: server.key }";
        checker.key(key, "`serve.tls` needs `cert` and `key`", Some(help.into()));
        return None;
    }
    Some(tls)
}

/// The host and the port of `host:port`.
fn split(listen: &str) -> Result<(&str, u16), String> {
    let wrong = |why: &str| Err(format!("`{listen}` {why}"));
    let Some((host, port)) = listen.rsplit_once(':') else { return wrong("has no port") };
    let Ok(port) = port.parse() else { return wrong("has no port between 0 and 65535") };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => Ok((inner, port)),
        None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => Ok((host, port)),
        _ => wrong("names no host"),
    }
}

/// Whether only this machine reaches it.
fn is_loopback(listen: &str) -> bool {
    split(listen).is_ok_and(|(host, _)| is_this_machine(host))
}

/// What answers are made from.
#[derive(Debug)]
pub struct Shared {
    /// What is in force.
    pub board: Arc<Board>,
    /// The stream.
    pub asker: Asker,
    /// Where history is kept, if anywhere.
    pub state_dir: Option<PathBuf>,
}

/// A server at work; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts to listen and to answer, on a thread of its own.
///
/// # Errors
/// Why it cannot: the address is taken, a token or a certificate cannot be read.
pub fn start(config: &ServeConfig, shared: Arc<Shared>) -> Result<Server, String> {
    let access = Access::read(config)?;
    let by = if config.listen_written || config.listen == LISTEN {
        "`serve.listen`"
    } else {
        "`serve`, where the variable PORT says,"
    };
    let wrong = |error: std::io::Error| format!("{by} {}: {error}", config.listen);
    let (host, port) = split(&config.listen)?;
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(wrong)?.collect();
    if !config.listen_written && addresses.iter().any(|address| address.ip().is_unspecified()) {
        // Of a platform without IPv6; only where the first cannot be had.
        addresses.push((std::net::Ipv4Addr::UNSPECIFIED, port).into());
    }
    // A name may mean something else than it says.
    let open = addresses.iter().any(|address| !address.ip().is_loopback());
    if open && (access.is_empty() || config.insecure_loopback) {
        return Err(format!(
            "`serve.listen` {}: it is open to others, which needs `serve.tokens` and forbids `serve.insecure_loopback`",
            config.listen
        ));
    }
    let listener = std::net::TcpListener::bind(addresses.as_slice()).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let tls = config.tls.as_ref().map(http::acceptor).transpose()?;
    let (stop, stopped) = watch::channel(false);
    let listening = http::Listening {
        listener,
        tls,
        app: routes::app(shared, access, config),
        max_connections: config.max_connections,
        timeout: config.timeout,
        stopped,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(|error| format!("`serve`: {error}"))?;
    let thread = std::thread::Builder::new().name("serve".to_owned()).spawn(move || {
        runtime.block_on(http::accept(listening));
        runtime.shutdown_timeout(Duration::from_secs(1));
    });
    let thread = thread.map_err(|error| format!("`serve`: {error}"))?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    tracing::info!("serving {scheme}://{address}");
    if config.tokens.is_empty() && !config.insecure_loopback {
        tracing::warn!(
            "`serve` has no tokens: only /health is answered; add `tokens`, or `insecure_loopback: true` for whoever is on this machine"
        );
    }
    Ok(Server { address, stop, thread: Some(thread) })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: what is being answered is answered, for a few seconds at most.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of `serve` has broken down");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// What became of an order, for the log.
fn audit(who: &auth::Who, what: &str, because: &str, carried: &Carried) {
    let done = match &carried.refused {
        Some(why) => format!("refused: {why}"),
        None => {
            let shadow = carried.actions.iter().filter(|line| line.mode == "shadow").count();
            let shadow = match shadow {
                0 => String::new(),
                n => format!(", {n} of the lines in shadow"),
            };
            format!("{} lines, {} lifted{shadow}", carried.actions.len(), carried.lifted.len())
        }
    };
    tracing::info!(
        "{} from {}: {} ({}): {done}",
        who.name,
        who.peer,
        escape(what),
        escape(because)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::yaml::Document;

    fn settings(text: &str, environment: &[(&str, &str)]) -> (Settings, String) {
        let mut settings = Settings::default();
        let document = Document { name: "t.yaml".into(), text: text.into() };
        let mut problems = settings.apply(&document);
        let variables = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        problems.extend(settings.apply_environment(variables));
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        (settings, shown.join("\n"))
    }

    const TOKEN: &str = "{ name: ops, role: operator, token: { env: OPS } }";

    #[test]
    fn all_keys_are_read() {
        let text = format!(
            "serve:\n  listen: '[::]:7979'\n  tokens: [{TOKEN}]\n  max_connections: 8\n  max_body: 64KiB\n  timeout: 5s\n  tls: {{ cert: c, key: k, client_ca: a }}\n"
        );
        let (settings, told) = settings(&text, &[]);
        assert_eq!(told, "");
        let serve = settings.serve.unwrap();
        assert_eq!((serve.max_connections, serve.max_body), (8, 64 << 10));
        assert_eq!(serve.timeout, Duration::from_secs(5));
        assert_eq!(serve.tls.unwrap().client_ca.unwrap(), PathBuf::from("a"));
        assert_eq!(serve.tokens[0].name, "ops");
    }

    #[test]
    fn a_variable_changes_what_it_names_and_nothing_else() {
        let text = format!("serve: {{ tokens: [{TOKEN}] }}\n");
        let (settings, told) = settings(
            &text,
            &[
                ("PORTCULLIS_SERVE__LISTEN", "0.0.0.0:80"),
                ("PORTCULLIS_TOKEN", "x"),
                ("PORTCULLIS_URL", "x"),
            ],
        );
        assert_eq!(told, "");
        let serve = settings.serve.unwrap();
        assert_eq!((serve.listen.as_str(), serve.tokens.len()), ("0.0.0.0:80", 1));
    }

    #[test]
    fn a_platform_says_its_port_where_nothing_else_is_said() {
        let at = |text: &str, more: &[(&str, &str)]| {
            let port = [("PORT", "8080")];
            let (settings, told) = settings(text, &[more, port.as_slice()].concat());
            assert_eq!(told, "", "{text}");
            settings.serve.map(|serve| serve.listen)
        };
        let tokens = format!("serve: {{ tokens: [{TOKEN}] }}\n");
        assert_eq!(at(&tokens, &[]).as_deref(), Some("[::]:8080"));
        // What is written goes before, also if it is the default.
        let written = "serve: { listen: 127.0.0.1:7979 }\n";
        assert_eq!(at(written, &[]).as_deref(), Some(LISTEN));
        let variable = [("PORTCULLIS_SERVE__LISTEN", "127.0.0.1:1")];
        assert_eq!(at(&tokens, &variable).as_deref(), Some("127.0.0.1:1"));
        // Nothing serves because a port is there.
        assert_eq!(at("", &[]), None);
        let (empty, told) = settings(&tokens, &[("PORT", "")]);
        assert_eq!((empty.serve.unwrap().listen.as_str(), told.as_str()), (LISTEN, ""));
    }

    #[test]
    fn a_port_that_cannot_be_is_told() {
        let tokens = format!("serve: {{ tokens: [{TOKEN}] }}\n");
        for port in ["http", "0", "65536", "-1", "80 80", "[::]:80"] {
            let (_, told) = settings(&tokens, &[("PORT", port)]);
            for part in ["`PORT` is no port", "environment variable PORT:1:7", "from 1 to 65535"] {
                assert!(told.contains(part), "{port}: {told}");
            }
        }
        let (_, told) = settings("serve: {}\n", &[("PORT", "80")]);
        for part in ["[::]:80 is open to others", "environment variable PORT", "tokens: [{"] {
            assert!(told.contains(part), "{told}");
        }
        let (_, told) = settings("serve: { insecure_loopback: true }\n", &[("PORT", "80")]);
        assert!(told.contains("opens all to whoever reaches [::]:80"), "{told}");
        assert_eq!(settings("", &[("PORT", "http")]).1, "", "it concerns nobody");
    }

    #[test]
    fn off_is_off() {
        let (settings, told) =
            settings("serve: { listen: 127.0.0.1:1 }\n", &[("PORTCULLIS_SERVE", "off")]);
        assert_eq!((settings.serve, told.as_str()), (None, ""));
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        let hash = "sha256";
        for (text, parts) in [
            ("serve: { listen: 0.0.0.0:7979 }", &["open to others", "tokens: [{"][..]),
            ("serve: { listen: example.org:80 }", &["open to others"]),
            ("serve: { listen: 127.0.0.1 }", &["has no port", "127.0.0.1:7979"]),
            ("serve: { listen: ':80' }", &["names no host"]),
            ("serve: { listen: '::1:80' }", &["names no host", "[::1]:7979"]),
            ("serve: { listen: 127.0.0.1:70000 }", &["between 0 and 65535"]),
            ("serve: { liste: x }", &["did you mean `listen`?"]),
            ("serve: { max_connections: 1 }", &["between 4 and 65536"]),
            ("serve: { max_body: 1 }", &["between 1024"]),
            ("serve: { timeout: 10ms }", &["at least 1s"]),
            ("serve: { tls: { cert: c } }", &["needs `cert` and `key`"]),
            (
                "serve: { tokens: [{ name: a, role: admin, token: { env: T } }] }",
                &["`admin` is not known"],
            ),
            (
                "serve: { tokens: [{ name: a, role: raed, token: { env: T } }] }",
                &["did you mean `read`?"],
            ),
            ("serve: { tokens: [{ name: a, role: read }] }", &["a token needs `token`"]),
            (
                "serve: { tokens: [{ name: 'a b', role: read, token: { env: T } }] }",
                &["is no name"],
            ),
            (
                "serve: { tokens: [{ name: a, role: read, token: { env: T } }, { name: a, role: read, token: { env: U } }] }",
                &["two tokens are named a"],
            ),
            (
                "serve: { tokens: [{ name: a, role: read, token: geheimes-wort }] }",
                &["where the secret is"],
            ),
            (
                &format!(
                    "serve: {{ tokens: [{{ name: a, role: read, token: {{ {hash}: geheimes-wort }} }}] }}"
                ),
                &["is no SHA-256", "sha256sum"],
            ),
        ] {
            let (_, told) = settings(&format!("{text}\n"), &[]);
            for part in parts {
                assert!(told.contains(part), "{text}: {told}");
            }
        }
        let open =
            format!("serve: {{ listen: 0.0.0.0:1, insecure_loopback: true, tokens: [{TOKEN}] }}\n");
        assert!(settings(&open, &[]).1.contains("opens all to whoever"), "{open}");
        // What stands where a hash should be may be the token: it is not repeated.
        let text = format!(
            "serve:\n  tokens:\n    - {{ name: a, role: read, token: {{ {hash}: geheimes-wort }} }}\n"
        );
        assert!(!settings(&text, &[]).1.contains("geheimes-wort"));
    }
}
