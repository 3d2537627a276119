//! Sinks carry action lines out. A sink knows only actions.
//!
//! The contract: lines are delivered in order; what cannot be delivered is an error, told once and
//! counted, and never stops detection; `flush` returns only when what was delivered has left the
//! process. A closed standard output is a normal end, not an error. With a state directory, a sink that
//! failed is opened anew and given again what it may not have; it says what it has.

pub mod alertmanager;
pub mod command;
pub mod crowdsec;
pub mod file;
pub mod http;
#[cfg_attr(not(feature = "kafka"), path = "kafka_absent.rs")]
pub mod kafka;
pub mod mail;
pub mod nftables;
pub mod pace;
pub mod pagerduty;
pub mod peer;
pub mod program;
pub mod railway;
pub mod remote;
pub mod secret;
pub mod selection;
pub mod stdout;
pub mod supabase;
pub mod webhook;

use crate::action::Action;
use crate::kafka::{BUILT, Connection, NOT_BUILT, Side, check_topic};
use crate::yaml::{Checker, Node};
use std::collections::HashSet;
use std::time::Duration;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Schema 1, one JSON object per line.
    Json,
    /// The Elastic Common Schema, one JSON object per line.
    Ecs,
    /// A sentence for people.
    Text,
}

impl Output {
    /// The action as a line, without its newline.
    pub fn render(self, action: &Action, colour: bool) -> String {
        match self {
            Output::Json => action.json(),
            Output::Ecs => action.ecs(),
            Output::Text => action.text(colour),
        }
    }
}

/// A sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkConfig {
    /// Standard output; without a form, text on a terminal and JSON elsewhere.
    Stdout {
        /// The form.
        output: Option<Output>,
    },
    /// A file, appended to.
    File {
        /// Its path.
        path: String,
        /// The form.
        output: Output,
    },
    /// A Kafka topic.
    Kafka {
        /// How to reach the cluster.
        connection: Connection,
        /// The topic.
        topic: String,
        /// The form.
        output: Output,
    },
    /// See [`mod@alertmanager`].
    Alertmanager(alertmanager::Options),
    /// See [`mod@command`].
    Command(command::Options),
    /// See [`mod@crowdsec`].
    Crowdsec(crowdsec::Options),
    /// See [`mod@mail`].
    Mail(mail::Options),
    /// See [`mod@nftables`].
    Nftables(nftables::Options),
    /// See [`mod@pagerduty`].
    Pagerduty(pagerduty::Options),
    /// See [`mod@railway`].
    Railway(railway::Options),
    /// See [`mod@supabase`].
    Supabase(supabase::Options),
    /// See [`mod@webhook`].
    Webhook(webhook::Options),
}

const KINDS: [&str; 12] = [
    "stdout",
    "file",
    "kafka",
    "alertmanager",
    "command",
    "crowdsec",
    "mail",
    "nftables",
    "pagerduty",
    "railway",
    "supabase",
    "webhook",
];

/// What a sink may need of the other settings to be opened.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<String>,
    /// The accounts by their ids: `identities`.
    pub identities: std::sync::Arc<crate::action::identity::Identities>,
    /// The names in `notify` for which this sink is a receiver (`receivers`); none: all lines.
    pub receives: Option<Vec<String>>,
    /// Sinks that change the world may: `mode: enforce` is written.
    pub armed: bool,
}

impl SinkConfig {
    /// Reads one entry of `sinks`.
    pub fn parse(checker: &mut Checker<'_>, node: &Node) -> Option<Self> {
        let members = checker.map(node, "a sink", &KINDS);
        let [(key, value)] = members else {
            checker.at(
                node.place,
                1,
                "a sink is one kind with its options",
                Some("for example  - file: { path: actions.jsonl }".into()),
            );
            return None;
        };
        if !KINDS.contains(&key.name.as_str()) {
            // That was said with the nearest one.
            return None;
        }
        match key.name.as_str() {
            "alertmanager" => {
                return alertmanager::Options::parse(checker, key, value)
                    .map(SinkConfig::Alertmanager);
            }
            "command" => {
                return command::Options::parse(checker, key, value).map(SinkConfig::Command);
            }
            "crowdsec" => {
                return crowdsec::Options::parse(checker, key, value).map(SinkConfig::Crowdsec);
            }
            "mail" => return mail::Options::parse(checker, key, value).map(SinkConfig::Mail),
            "nftables" => {
                return nftables::Options::parse(checker, key, value).map(SinkConfig::Nftables);
            }
            "pagerduty" => {
                return pagerduty::Options::parse(checker, key, value).map(SinkConfig::Pagerduty);
            }
            "railway" => {
                return railway::Options::parse(checker, key, value).map(SinkConfig::Railway);
            }
            "supabase" => {
                return supabase::Options::parse(checker, key, value).map(SinkConfig::Supabase);
            }
            "webhook" => {
                return webhook::Options::parse(checker, key, value).map(SinkConfig::Webhook);
            }
            _ => {}
        }
        let options = match key.name.as_str() {
            "file" => &["path", "output"][..],
            "kafka" => &["brokers", "topic", "properties", "oauth_token", "output"],
            _ => &["output"],
        };
        let mut output = None;
        let (mut path, mut topic, mut connection) = (None, None, Connection::default());
        for (key, value) in checker.map(value, &format!("the sink `{}`", key.name), options) {
            match key.name.as_str() {
                "output" => {
                    output = checker.word(value, "`output`", &crate::config::output_words());
                }
                "brokers" => connection.parse_brokers(checker, value, "`brokers`"),
                "properties" => connection.parse_properties(checker, value, Side::Producer),
                "oauth_token" => connection.parse_oauth_token(checker, value),
                "topic" => {
                    topic = checker.text(value, "`topic`");
                    if let Some(Err(why)) = topic.as_deref().map(check_topic) {
                        checker.node(value, format!("`topic`: {why}"), None);
                    }
                }
                _ => path = checker.text(value, "`path`"),
            }
        }
        connection.settle_oauth_token(checker, value);
        let json = output.unwrap_or(Output::Json);
        match key.name.as_str() {
            "stdout" => Some(SinkConfig::Stdout { output }),
            "kafka" => {
                if !BUILT {
                    checker.key(key, NOT_BUILT, None);
                }
                if let (Some(topic), false) = (topic, connection.brokers.is_empty()) {
                    return Some(SinkConfig::Kafka { connection, topic, output: json });
                }
                if value.get("brokers").is_none() || value.get("topic").is_none() {
                    let help = "for example  - kafka: { brokers: [localhost:9092], topic: portcullis.actions }";
                    let message = "the sink `kafka` needs `brokers` and `topic`";
                    checker.key(key, message, Some(help.into()));
                }
                None
            }
            _ => {
                if path.is_none() {
                    checker.at(node.place, 1, "the sink `file` needs `path`", None);
                }
                Some(SinkConfig::File { path: path?, output: json })
            }
        }
    }
}

impl SinkConfig {
    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        match self {
            SinkConfig::Stdout { .. } => "stdout".to_owned(),
            SinkConfig::File { path, .. } => format!("file {path}"),
            SinkConfig::Kafka { topic, .. } => format!("kafka {topic}"),
            SinkConfig::Alertmanager(options) => options.name(),
            SinkConfig::Command(options) => options.name(),
            SinkConfig::Crowdsec(options) => options.name(),
            SinkConfig::Mail(options) => options.name(),
            SinkConfig::Nftables(options) => options.name(),
            SinkConfig::Pagerduty(options) => options.name(),
            SinkConfig::Railway(options) => options.name(),
            SinkConfig::Supabase(options) => options.name(),
            SinkConfig::Webhook(options) => options.name(),
        }
    }

    /// Whether it is there to tell somebody, so that `receivers` may name it.
    pub fn tells(&self) -> bool {
        matches!(
            self,
            SinkConfig::Alertmanager(_)
                | SinkConfig::Mail(_)
                | SinkConfig::Pagerduty(_)
                | SinkConfig::Webhook(_)
        )
    }

    /// What `receivers` calls it: its `name`, else its kind.
    pub fn receiver(&self) -> String {
        let name = self.name();
        match name.split_once(' ') {
            Some((_, own)) if self.is_remote() => own.to_owned(),
            _ => name,
        }
    }

    /// Whether it works on a thread of its own: then it is [opened](Self::remote) as such.
    pub fn is_remote(&self) -> bool {
        !matches!(
            self,
            SinkConfig::Stdout { .. } | SinkConfig::File { .. } | SinkConfig::Kafka { .. }
        )
    }

    /// Opens a sink that works on a thread of its own.
    ///
    /// # Errors
    /// What is missing, or that it is none of those.
    pub fn remote(&self, context: &Context) -> Result<Box<dyn remote::Remote>, String> {
        match self {
            SinkConfig::Stdout { .. } | SinkConfig::File { .. } | SinkConfig::Kafka { .. } => {
                Err("it works on no thread of its own".to_owned())
            }
            SinkConfig::Alertmanager(options) => options.open(context),
            SinkConfig::Command(options) => options.open(context),
            SinkConfig::Crowdsec(options) => options.open(context),
            SinkConfig::Mail(options) => options.open(context),
            SinkConfig::Nftables(options) => options.open(context),
            SinkConfig::Pagerduty(options) => options.open(context),
            SinkConfig::Railway(options) => options.open(context),
            SinkConfig::Supabase(options) => options.open(context),
            SinkConfig::Webhook(options) => options.open(context),
        }
    }
}

/// What delivering came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It is out.
    Yes,
    /// Nobody reads any more: a normal end.
    Closed,
    /// More waits for who reads it than may.
    Waits,
}

/// A sink at work.
#[derive(Debug)]
pub enum Sink {
    /// See [`mod@stdout`].
    Stdout(stdout::StdoutSink),
    /// See [`mod@file`].
    File(file::FileSink),
    /// See [`mod@kafka`].
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaSink),
}

impl Sink {
    /// Delivers one action.
    ///
    /// # Errors
    /// What the system says when a line cannot be written.
    pub fn deliver(&mut self, action: &Action) -> std::io::Result<Delivered> {
        match self {
            Sink::Stdout(sink) => sink.deliver(action),
            Sink::File(sink) => sink.deliver(action),
            #[cfg(feature = "kafka")]
            Sink::Kafka(sink) => sink.deliver(action),
        }
    }

    /// Sends out what was delivered.
    ///
    /// # Errors
    /// What the system says when it cannot be written.
    pub fn flush(&mut self) -> std::io::Result<Delivered> {
        match self {
            Sink::Stdout(sink) => sink.flush(),
            Sink::File(sink) => sink.flush(),
            #[cfg(feature = "kafka")]
            Sink::Kafka(sink) => sink.flush(),
        }
    }

    /// Lets nobody who reads slowly, or not at all, hold up whoever delivers: `waiting_max` bytes may wait
    /// for him.
    ///
    /// # Errors
    /// What the system says.
    pub fn go_apart(&mut self, waiting_max: usize) -> std::io::Result<()> {
        match self {
            Sink::Stdout(sink) => sink.go_apart(waiting_max),
            _ => Ok(()),
        }
    }

    /// Whether what it was given and could not write is written by it as soon as that works.
    pub fn retains(&self) -> bool {
        matches!(self, Sink::Stdout(sink) if sink.retains())
    }

    /// Waits no longer than `patience` until all is out that it was given.
    ///
    /// # Errors
    /// What the system says when it cannot be written.
    pub fn drain(&mut self, patience: Duration) -> std::io::Result<Delivered> {
        match self {
            Sink::Stdout(sink) => sink.drain(patience),
            other => other.flush(),
        }
    }

    /// Opens what it writes to anew, after a failure or because a file was rotated.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        match self {
            Sink::File(sink) => sink.reopen(),
            // The client connects by itself.
            _ => Ok(()),
        }
    }

    /// The ids among its last `count` lines, as far as it can tell: it has those.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known(&mut self, count: usize) -> std::io::Result<HashSet<String>> {
        match self {
            Sink::Stdout(_) => Ok(HashSet::new()),
            Sink::File(sink) => sink.known(count),
            #[cfg(feature = "kafka")]
            Sink::Kafka(sink) => Ok(sink.known()),
        }
    }

    /// Whether what it flushed would be lost with the power.
    pub fn needs_sync(&self) -> bool {
        match self {
            Sink::File(sink) => sink.needs_sync(),
            _ => false,
        }
    }

    /// Makes what it flushed last.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> std::io::Result<()> {
        match self {
            Sink::File(sink) => sink.sync(),
            _ => Ok(()),
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> String {
        match self {
            Sink::Stdout(_) => "stdout".to_owned(),
            Sink::File(sink) => format!("file {}", sink.path()),
            #[cfg(feature = "kafka")]
            Sink::Kafka(sink) => format!("kafka {}", sink.topic()),
        }
    }
}

/// A write to somebody who has gone is a normal end.
fn closed(error: std::io::Error) -> std::io::Result<Delivered> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(Delivered::Closed) } else { Err(error) }
}
