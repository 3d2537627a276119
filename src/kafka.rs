//! What the Kafka source and the Kafka sink share: where the brokers are, which properties of the
//! client may be set, and what its errors mean in plain words.

mod token;

pub use token::{Token, TokenPlace};

use crate::yaml::{Checker, Kind, Node};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;

/// Said where Kafka is asked for and the program has none.
pub const NOT_BUILT: &str = "this portcullis was built without kafka: build it with the default features, \
     or with `cargo build --features kafka` (`kafka-tls` for TLS and SASL)";

/// Whether Kafka is in this build.
pub const BUILT: bool = cfg!(feature = "kafka");

/// How to reach a cluster.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Connection {
    /// `host:port` of some of its brokers.
    pub brokers: Vec<String>,
    /// Properties of librdkafka, as its documentation names them.
    pub properties: BTreeMap<String, String>,
    /// Where the token for OAUTHBEARER is, if there is one.
    pub oauth_token: Option<TokenPlace>,
}

impl fmt::Debug for Connection {
    /// Without the values of properties, since some of them are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Connection")
            .field("brokers", &self.brokers)
            .field("properties", &names)
            .field("oauth_token", &self.oauth_token)
            .finish()
    }
}

/// Who uses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Consumer,
    /// The sink and the dead letters.
    Producer,
}

/// Why a property cannot be set by hand; none if it can.
pub fn refused(side: Side, name: &str) -> Option<&'static str> {
    const COMMITS: &str = "an offset is committed only when the effect of its record lasts";
    const MEMORY: &str = "it is derived from `memory_limit`, which it could break";
    const LOST: &str = "without it a line can be lost, doubled or put out of order";
    match (side, name) {
        (_, "bootstrap.servers" | "metadata.broker.list") => Some("it is what `brokers` says"),
        (_, "plugin.library.paths") => Some("it would load foreign code into this program"),
        (_, "statistics.interval.ms") => Some("lag and the watchdog depend on it"),
        (_, "log.queue" | "test.mock.num.brokers" | "test.mock.broker.rtt") => {
            Some("it is for tests of the client")
        }
        (
            Side::Consumer,
            "enable.auto.commit"
            | "auto.commit.enable"
            | "auto.commit.interval.ms"
            | "enable.auto.offset.store"
            | "offset.store.method",
        ) => Some(COMMITS),
        (Side::Consumer, "auto.offset.reset") => {
            Some("it would jump in silence; `from` says where to begin")
        }
        (Side::Consumer, "group.id") => Some("it is what `group` says"),
        (Side::Consumer, "group.instance.id") => Some("it is what `instance_id` says"),
        (Side::Consumer, "group.protocol" | "group.remote.assignor") => {
            Some("the classic protocol is used; the other loses members in this client's version")
        }
        (Side::Consumer, "enable.partition.eof") => Some("idle partitions are told by it"),
        (Side::Consumer, "check.crcs") => Some("a damaged record would be read as a true one"),
        (
            Side::Consumer,
            "queued.max.messages.kbytes" | "queued.min.messages" | "fetch.max.bytes",
        ) => Some(MEMORY),
        (
            Side::Producer,
            "enable.idempotence"
            | "acks"
            | "request.required.acks"
            | "max.in.flight"
            | "max.in.flight.requests.per.connection"
            | "queuing.strategy",
        ) => Some(LOST),
        (Side::Producer, "transactional.id") => Some("nothing here is sent in transactions"),
        (Side::Producer, "delivery.report.only.error" | "dr_cb" | "dr_msg_cb") => {
            Some("delivery is known by the reports")
        }
        _ => None,
    }
}

impl Connection {
    /// Reads `brokers`.
    pub fn parse_brokers(&mut self, checker: &mut Checker<'_>, value: &Node, what: &str) {
        self.brokers = Vec::new();
        for item in value.as_list() {
            let Some(text) = checker.text(item, what) else { continue };
            for broker in text.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
                match check_broker(broker) {
                    Ok(()) => self.brokers.push(broker.to_owned()),
                    Err((why, help)) => {
                        checker.node(item, format!("{what}: {why}"), Some(help));
                    }
                }
            }
        }
    }

    /// Reads `properties`: names of librdkafka with a value, or with `{ env: NAME }` or
    /// `{ file: PATH }` for a secret.
    pub fn parse_properties(&mut self, checker: &mut Checker<'_>, value: &Node, side: Side) {
        let Some(members) = value.as_map() else {
            if value.kind != Kind::Null {
                checker.node(
                    value,
                    "`properties` must be a map of librdkafka's properties",
                    Some("for example { security.protocol: SASL_SSL }".into()),
                );
            }
            return;
        };
        for (key, value) in members {
            if let Some(why) = refused(side, &key.name) {
                checker.key(key, format!("`{}` cannot be set: {why}", key.name), None);
                continue;
            }
            let what = format!("`properties.{}`", key.name);
            let text = match value.as_map() {
                None => checker.text(value, &what),
                Some(_) => secret(checker, value, &what),
            };
            if let Some(text) = text {
                self.properties.insert(key.name.clone(), text);
            }
        }
    }

    /// Reads `oauth_token`: `{ file: PATH }` or `{ env: NAME }`. The token itself is read when the
    /// client asks for it.
    pub fn parse_oauth_token(&mut self, checker: &mut Checker<'_>, value: &Node) {
        let what = "`oauth_token`";
        if value.as_map().is_none() {
            // It may be the token, so it is not repeated.
            let help =
                "write { file: PATH } or { env: NAME }; the token itself does not belong here";
            checker.node(value, "`oauth_token` must say where the token is", Some(help.into()));
        } else if let Some((key, _, name)) = elsewhere(checker, value, what) {
            self.oauth_token =
                Some(if key == "env" { TokenPlace::Env(name) } else { TokenPlace::File(name) });
        }
    }

    /// Once all is read: whether `oauth_token` fits the properties, and what follows from it. `node`
    /// holds both.
    pub fn settle_oauth_token(&mut self, checker: &mut Checker<'_>, node: &Node) {
        let (Some(_), Some(place)) = (&self.oauth_token, node.get("oauth_token")) else { return };
        const UNSIGNED: &str = "enable.sasl.oauthbearer.unsecure.jwt";
        if self.properties.contains_key(UNSIGNED) {
            let help = format!("take `{UNSIGNED}` out: it would make a token of its own");
            let message = format!("both `oauth_token` and `properties.{UNSIGNED}` are given");
            checker.node(place, message, Some(help));
        }
        let protocol = self.properties.get("security.protocol").map(|text| text.to_lowercase());
        if !protocol.is_some_and(|text| text.starts_with("sasl_")) {
            let help = "for example properties: { security.protocol: SASL_SSL }".into();
            let message = "`oauth_token` is shown to nobody without SASL";
            checker.node(place, message, Some(help));
        }
        let names = ["sasl.mechanisms", "sasl.mechanism"];
        match names.iter().find_map(|name| Some((name, self.properties.get(*name)?))) {
            Some((name, value)) if !value.eq_ignore_ascii_case("OAUTHBEARER") => {
                let help = format!("take `{name}` out, or say OAUTHBEARER");
                let message = format!("`oauth_token` is of no use with this `properties.{name}`");
                checker.node(place, message, Some(help));
            }
            Some(_) => {}
            None => {
                self.properties.insert("sasl.mechanisms".into(), "OAUTHBEARER".into());
            }
        }
    }

    /// The token to show now.
    ///
    /// # Errors
    /// Why there is none, and what helps.
    pub fn token(&self) -> Result<Option<Token>, String> {
        self.oauth_token.as_ref().map(TokenPlace::read).transpose()
    }
}

/// The one member of `{ env: NAME }` or `{ file: PATH }`: its key, where it stands, and its text.
fn elsewhere<'n>(
    checker: &mut Checker<'_>,
    value: &'n Node,
    what: &str,
) -> Option<(&'n str, &'n Node, String)> {
    let members = checker.map(value, what, &["env", "file"]);
    let [(key, node)] = members else {
        checker.node(value, format!("{what} needs a value, `env` or `file`"), None);
        return None;
    };
    Some((&key.name, node, checker.text(node, what)?))
}

/// A value that stands in the environment or in a file.
fn secret(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let (key, node, name) = elsewhere(checker, value, what)?;
    let read = match key {
        "env" => std::env::var(&name)
            .map_err(|_| format!("the environment has no text under the name `{name}`")),
        _ => std::fs::read_to_string(&name)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .map_err(|error| format!("cannot read {name}: {error}")),
    };
    read.map_err(|why| checker.node(node, format!("{what}: {why}"), None)).ok()
}

/// Whether a text can name a broker. Its port is never guessed: a cluster that listens elsewhere
/// would be looked for in vain.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check_broker(text: &str) -> Result<(), (String, String)> {
    let (scheme, address) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    let bare = address.parse::<Ipv6Addr>().is_ok();
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !bare && !address.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        let help = "write it like kafka-1.example.org:9092";
        return Err((format!("`{text}` names no host"), help.to_owned()));
    }
    let host = if bare { format!("[{host}]") } else { host.to_owned() };
    let help = format!("did you mean `{scheme}{host}:9092`?");
    match port.map(str::parse::<u16>) {
        Some(Ok(1..)) => Ok(()),
        None => Err((format!("`{text}` has no port"), help)),
        Some(_) => Err((format!("`{text}` has no port between 1 and 65535"), help)),
    }
}

/// Whether a text can name a topic.
///
/// # Errors
/// What is wrong with it.
pub fn check_topic(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || matches!(text, "." | "..") || text.len() > 249 || !text.chars().all(fits)
    {
        return Err(format!(
            "`{text}` is no name of a topic: letters, digits, `.`, `_` and `-`, at most 249"
        ));
    }
    Ok(())
}

#[cfg(feature = "kafka")]
pub use client::{Consequence, TOKEN_FAILED, client_config, consequence, explain, oauth_token};

#[cfg(feature = "kafka")]
mod client {
    use super::{Connection, TokenPlace};
    use rdkafka::ClientConfig;
    use rdkafka::client::OAuthToken;
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

    /// A client's configuration: what both sides need, without the properties set by hand.
    pub fn client_config(connection: &Connection) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", connection.brokers.join(","))
            .set("client.id", "portcullis")
            .set("socket.keepalive.enable", "true")
            // A broker that is back is found within two seconds, not ten.
            .set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// How the client's error begins when [`oauth_token`] gave none.
    pub const TOKEN_FAILED: &str = "Failed to acquire SASL OAUTHBEARER token: ";

    /// What a client is given that asks for a token, at its start and when four fifths of the life of
    /// the last one are over; 10 s after a failure it asks again.
    ///
    /// # Errors
    /// Why there is none, and what helps.
    pub fn oauth_token(place: Option<&TokenPlace>) -> Result<OAuthToken, String> {
        let place = place.ok_or(
            "OAUTHBEARER needs `oauth_token: { file: PATH }` beside `properties`; the unsigned token that \
             `enable.sasl.oauthbearer.unsecure.jwt` makes is for tests and is never renewed",
        )?;
        let token = place.read()?;
        Ok(OAuthToken {
            token: token.text,
            principal_name: token.principal,
            lifetime_ms: token.until / 1000,
        })
    }

    /// What an error asks for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Consequence {
        /// The broker cannot be reached: wait.
        Wait,
        /// It refuses us: somebody has to change something.
        Refused,
        /// It will pass by itself, and is nobody's business.
        Pass,
        /// Worth saying.
        Say,
    }

    /// What an error asks for.
    pub fn consequence(code: Code) -> Consequence {
        match code {
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable
            | Code::BrokerDestroy => Consequence::Wait,
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SSL => Consequence::Refused,
            Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::RebalanceInProgress
            | Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::AssignmentLost
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::NoOffset
            | Code::MemberIdRequired => Consequence::Pass,
            _ => Consequence::Say,
        }
    }

    /// An error in plain words, with what would help; never with the value of a property.
    pub fn explain(error: &KafkaError) -> String {
        match error {
            KafkaError::ClientConfig(_, why, key, value) => {
                let why = why.replace(value.as_str(), "...");
                if why.contains("not available at build time") || why.contains("not supported") {
                    format!("the property `{key}` asks for what this build lacks ({why}): {TLS}")
                } else if why.contains("No such configuration property") {
                    format!("librdkafka knows no property `{key}`")
                } else {
                    format!("the property `{key}` cannot have this value: {why}")
                }
            }
            KafkaError::ClientCreation(why) => {
                let lacks = ["ssl", "sasl", "scram", "build time"];
                let lower = why.to_lowercase();
                if lacks.iter().any(|word| lower.contains(word)) {
                    format!("the client cannot be made: {why}; {TLS}")
                } else {
                    format!("the client cannot be made: {why}")
                }
            }
            other => {
                other.rdkafka_error_code().map_or_else(|| other.to_string(), |c| c.to_string())
            }
        }
    }

    const TLS: &str =
        "TLS and SASL need a build with `--features kafka-tls` (or `kafka-tls-vendored`)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_and_topics_are_checked() {
        for good in ["kafka:9092", "10.0.0.1:9092", "[::1]:9092", "SSL://k.example.org:1"] {
            assert_eq!(check_broker(good), Ok(()), "{good}");
        }
        for bad in ["", ":9092", "a b:1", "host:", "host:0", "host:66000", "http://x/y"] {
            assert!(check_broker(bad).is_err(), "{bad}");
        }
        for (bad, near) in [
            ("host", "host:9092"),
            ("host:", "host:9092"),
            ("10.0.0.1", "10.0.0.1:9092"),
            ("[::1]", "[::1]:9092"),
            ("2001:db8::5:9092", "[2001:db8::5:9092]:9092"),
            ("SSL://k.example.org", "SSL://k.example.org:9092"),
        ] {
            let (_, help) = check_broker(bad).unwrap_err();
            assert_eq!(help, format!("did you mean `{near}`?"));
        }
        assert!(check_topic("logs.app-1_x").is_ok());
        for bad in ["", ".", "a/b", "a b", "ü"] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_connection_never_shows_a_secret() {
        let properties = [("sasl.password".to_owned(), "hunter2".to_owned())].into();
        let shown = format!(
            "{:?}",
            Connection { brokers: vec!["k:1".into()], properties, oauth_token: None }
        );
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn what_the_client_refuses_is_explained_without_its_value() {
        let with = |name: &str, value: &str| {
            let mut config = client_config(&Connection::default());
            config.set(name, value);
            let made: Result<rdkafka::consumer::BaseConsumer, _> = config.create();
            explain(&made.err().unwrap())
        };
        assert_eq!(
            with("fetch.wait.max.msec", "1"),
            "librdkafka knows no property `fetch.wait.max.msec`"
        );
        let text = with("fetch.wait.max.ms", "s3cret");
        assert!(text.contains("`fetch.wait.max.ms`") && !text.contains("s3cret"), "{text}");
    }
}
