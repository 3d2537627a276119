//! One connection to Railway's API for subscriptions: graphql-transport-ws over a websocket.

use crate::railway::{Token, is_unauthorized};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Request, Uri};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// What is spoken.
const PROTOCOL: &str = "graphql-transport-ws";
/// How long reaching the server, and then its word that it is ready, may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long handing one message to the system may take.
const SEND_MAX: Duration = Duration::from_secs(10);
/// How long the end waits for the server to hear of it.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// Longest message that is taken, bytes: what a full answer of the longest usual lines needs.
const MESSAGE_MAX: usize = 64 << 20;

/// Why a connection was not made, or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// It may work later.
    Later(String),
    /// A message was longer than is taken.
    TooLong,
    /// The token is not taken.
    Unauthorized(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Later(why) => f.write_str(why),
            Broken::TooLong => write!(f, "a message is longer than {MESSAGE_MAX} bytes"),
            Broken::Unauthorized(why) => write!(f, "the token is not taken: {why}"),
        }
    }
}

/// Bytes to and from the server.
trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// A connection on which the server has said that it is ready.
pub(super) struct Socket(WebSocketStream<Box<dyn Wire>>);

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message.
    Text(String),
    /// A sign of life.
    Life,
}

impl Socket {
    /// Connects to `endpoint`, an `https` or `http` address.
    pub(super) async fn connect(endpoint: &str, token: &Token) -> Result<Self, Broken> {
        let later = |why: &dyn fmt::Display| Broken::Later(why.to_string());
        let request = request(endpoint, token).map_err(|why| later(&why))?;
        let shaking = async {
            let wire = reach(request.uri()).await.map_err(|why| later(&why))?;
            let config = WebSocketConfig::default()
                .max_message_size(Some(MESSAGE_MAX))
                .max_frame_size(Some(MESSAGE_MAX));
            let (socket, _) =
                client_async_with_config(request, wire, Some(config)).await.map_err(broken)?;
            Ok(Self(socket))
        };
        let late = |_| Broken::Later(format!("no connection within {} s", CONNECT_MAX.as_secs()));
        let mut socket = timeout(CONNECT_MAX, shaking).await.map_err(late)??;
        socket.send(&json!({ "type": "connection_init" })).await?;
        let late = |_| Broken::Later(format!("no word within {} s", CONNECT_MAX.as_secs()));
        timeout(CONNECT_MAX, socket.ready()).await.map_err(late)??;
        Ok(socket)
    }

    /// Waits until the server says that it is ready.
    async fn ready(&mut self) -> Result<(), Broken> {
        loop {
            let Heard::Text(text) = self.next().await? else { continue };
            let message: Value = serde_json::from_str(&text).unwrap_or_default();
            match message.get("type").and_then(Value::as_str) {
                Some("connection_ack") => return Ok(()),
                Some("ping") => self.send(&json!({ "type": "pong" })).await?,
                _ => return Err(Broken::Later("the server did not say that it is ready".into())),
            }
        }
    }

    /// The next thing that comes. Nothing is lost if it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Result<Heard, Broken> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Ok(Heard::Text(text.as_str().to_owned())),
            Some(Ok(Message::Binary(bytes))) => {
                Ok(Heard::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Some(Ok(Message::Close(frame))) => Err(closed(frame.as_ref())),
            Some(Ok(_)) => Ok(Heard::Life),
            Some(Err(error)) => Err(broken(error)),
            None => Err(Broken::Later("the server closed the connection".into())),
        }
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &Value) -> Result<(), Broken> {
        self.put(Message::text(message.to_string())).await
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        self.put(Message::Ping(Vec::new().into())).await
    }

    async fn put(&mut self, message: Message) -> Result<(), Broken> {
        let late = |_| Broken::Later("the server takes nothing any more".into());
        timeout(SEND_MAX, self.0.send(message)).await.map_err(late)?.map_err(broken)
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        let _too_late = timeout(CLOSE_MAX, self.0.close(None)).await;
    }
}

fn closed(frame: Option<&CloseFrame>) -> Broken {
    let Some(frame) = frame else {
        return Broken::Later("the server closed the connection".into());
    };
    let code = u16::from(frame.code);
    let reason: String = frame.reason.chars().filter(|c| !c.is_control()).take(200).collect();
    let why = format!("the server closed the connection: {code} {reason}").trim_end().to_owned();
    // The protocol's own numbers for a client that may not.
    if matches!(code, 4401 | 4403) || is_unauthorized(&reason) {
        return Broken::Unauthorized(why);
    }
    Broken::Later(why)
}

fn broken(error: Error) -> Broken {
    match error {
        Error::Http(answer) => {
            let status = answer.status().as_u16();
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let why = format!("the answer was {status}");
            if matches!(status, 401 | 403) || is_unauthorized(&body) {
                return Broken::Unauthorized(why);
            }
            Broken::Later(why)
        }
        Error::Capacity(_) => Broken::TooLong,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Broken::Later("the connection broke".into())
        }
        error => Broken::Later(error.to_string()),
    }
}

/// The request that begins it: with the token in its header.
fn request(endpoint: &str, token: &Token) -> Result<Request<()>, String> {
    let address = match endpoint.split_once("://") {
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("http", rest)) => format!("ws://{rest}"),
        _ => return Err(format!("`{endpoint}` is no https address")),
    };
    let mut request =
        address.as_str().into_client_request().map_err(|error| format!("{endpoint}: {error}"))?;
    let (name, value) = token.header();
    // What is wrong with it is not said: it would show it.
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| format!("{} holds characters that no token has", token.variable()))?;
    value.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(HeaderName::from_static(name), value);
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
    let agent = concat!("portcullis/", env!("CARGO_PKG_VERSION"));
    headers.insert("user-agent", HeaderValue::from_static(agent));
    Ok(request)
}

async fn reach(address: &Uri) -> Result<Box<dyn Wire>, String> {
    let secure = address.scheme_str() == Some("wss");
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = address.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await.map_err(|e| format!("{host}:{port}: {e}"))?;
    let _slower_only = tcp.set_nodelay(true);
    if !secure {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| format!("{host}: {e}"))?;
    let tls = tls()?.connect(name, tcp).await.map_err(|e| format!("{host}:{port}: {e}"))?;
    Ok(Box::new(tls))
}

fn tls() -> Result<TlsConnector, String> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_in_its_header_and_is_not_shown() {
        let token = Token::Project("sesame".to_owned());
        let made = request("https://backboard.railway.com/graphql/v2", &token).unwrap();
        assert_eq!(made.uri(), "wss://backboard.railway.com/graphql/v2");
        assert_eq!(made.headers()["project-access-token"], "sesame");
        assert_eq!(made.headers()["sec-websocket-protocol"], PROTOCOL);
        assert!(!format!("{made:?}").contains("sesame"));
        let token = Token::Account("open\nsesame".to_owned());
        let why = request("http://127.0.0.1:1/", &token).unwrap_err();
        assert!(why.contains("RAILWAY_API_TOKEN") && !why.contains("sesame"), "{why}");
        assert!(request("ftp://example.org", &token).is_err());
        assert!(tls().is_ok());
    }

    #[test]
    fn a_close_that_forbids_is_told_from_one_that_does_not() {
        let frame = |code: u16, reason: &'static str| {
            closed(Some(&CloseFrame { code: code.into(), reason: reason.into() }))
        };
        assert!(matches!(frame(4401, ""), Broken::Unauthorized(_)));
        assert!(matches!(frame(4400, "Not Authorized"), Broken::Unauthorized(_)));
        let away = "the server closed the connection: 1001 bye".to_owned();
        assert_eq!(frame(1001, "bye"), Broken::Later(away));
    }
}
