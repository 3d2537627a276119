//! The command line, as clap reads it. The only file that knows clap.

use crate::config::output_words;
use crate::sink::Output;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Reads structured logs, counts attacks in exact sliding windows, and says whom to block.
///
/// Piped:     my-app | portcullis
/// Replayed:  portcullis replay archive/*.jsonl.zst
/// Followed:  portcullis run --follow logs/app.jsonl
///
/// Actions go to standard output, one line each; everything else goes to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    verbatim_doc_comment,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do; without one, `run` if standard input is not a terminal
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags that every command takes
    #[command(flatten)]
    pub common: Common,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream from standard input or followed files until they end or a signal comes
    Run(Run),
    /// Read archived logs, merged by event time, and end with a summary
    #[command(
        after_help = "Yesterday's errors in one line:\n  portcullis replay --output text logs/2025-08-03.jsonl.gz"
    )]
    Replay(Replay),
    /// Check configuration, patterns and rules, and run the tests inside them
    Check(Check),
    /// Say how a line is read, which pattern matches or why not, and what counts it
    Explain(Explain),
    /// Print every configuration key with its default, unit and range
    Config(Config),
    /// Look into a state directory (`state_dir`), check it, or give room back
    State(State),
    /// List the sinks of the configuration, try one out, or take away what one made
    Sink(Sink),
    /// Say how a running Portcullis is
    Status(Server),
    /// List what is in force, or what was (`--history`)
    Decisions(Decisions),
    /// Say how an address or account stands: what was counted, and what is in force
    Why(Target),
    /// Keep an address or a range out
    Block(Hold),
    /// Keep an account closed
    Lock(Hold),
    /// Demand a second factor of an account
    #[command(name = "require-2fa")]
    Require2fa(Hold),
    /// End everything that is active against an address or account
    Lift(Lift),
    /// Add an entry to the allowlist, which also lifts what it covers; without a target, show the list
    Allow(Allow),
    /// Take an entry that was added by hand away again
    Disallow(Disallow),
}

/// How to reach a running Portcullis.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// Where it serves; default: $PORTCULLIS_URL, else `serve.listen` of the configuration, else
    /// http://127.0.0.1:7979
    #[arg(long, value_name = "URL", env = "PORTCULLIS_URL")]
    pub url: Option<String>,
    /// A file whose first line is the token; default: the token in $PORTCULLIS_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// A PEM file with the authority that signed its certificate, instead of the usual ones
    #[arg(long, value_name = "FILE")]
    pub ca: Option<String>,
    /// A PEM file with the certificate to show, if `serve.tls.client_ca` asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<String>,
    /// A PEM file with the private key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<String>,
}

/// Flags of `decisions`.
#[derive(Debug, Args)]
pub struct Decisions {
    /// Also those that have ended, the newest first
    #[arg(long)]
    pub history: bool,
    /// How many at most, 100 unless told otherwise; the newest are given, and how many more there are
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Only block, lock, require_2fa, alert or under_attack
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// Only enforce or shadow
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// Only what is about this address, range or account
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// Only what this rule started
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// How to reach it
    #[command(flatten)]
    pub server: Server,
}

/// At whom.
#[derive(Debug, Args)]
pub struct Target {
    /// An address, a range, a name or e-mail address, or user_id:ID
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// How to reach it
    #[command(flatten)]
    pub server: Server,
}

/// Flags of `block`, `lock` and `require-2fa`.
#[derive(Debug, Args)]
pub struct Hold {
    /// At whom
    #[command(flatten)]
    pub at: Target,
    /// How long, for example 1h or 30d
    #[arg(long, value_name = "TIME")]
    pub r#for: String,
    /// Why, for whoever reads it later
    #[arg(long, value_name = "TEXT")]
    pub because: String,
    /// Although a guard speaks against it
    #[arg(long)]
    pub force: bool,
}

/// Flags of `lift`.
#[derive(Debug, Args)]
pub struct Lift {
    /// At whom
    #[command(flatten)]
    pub at: Target,
    /// Why, for whoever reads it later
    #[arg(long, value_name = "TEXT")]
    pub because: Option<String>,
    /// How long nothing is decided against it again, from now; default: 10m
    #[arg(long, value_name = "TIME")]
    pub grace: Option<String>,
}

/// Flags of `allow`.
#[derive(Debug, Args)]
pub struct Allow {
    /// An address, a range, a name or e-mail address, or user_id:ID; without one, the list is shown
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// How to reach it
    #[command(flatten)]
    pub server: Server,
    /// How long; without it, until it is taken away
    #[arg(long, value_name = "TIME", requires = "target")]
    pub r#for: Option<String>,
    /// Why, for whoever reads it later
    #[arg(long, value_name = "TEXT", requires = "target")]
    pub because: Option<String>,
}

/// Flags of `disallow`.
#[derive(Debug, Args)]
pub struct Disallow {
    /// At whom
    #[command(flatten)]
    pub at: Target,
    /// Why, for whoever reads it later
    #[arg(long, value_name = "TEXT")]
    pub because: Option<String>,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// The configuration; else $PORTCULLIS_CONFIG, else portcullis.yaml in this folder
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<String>,
    /// A file or folder of patterns and rules, instead of the default packs (repeatable)
    #[arg(long, value_name = "PATH", global = true)]
    pub patterns: Vec<String>,
    /// A built-in pack: velro, guard, sshd (repeatable; default velro and guard)
    #[arg(long, value_name = "NAME", global = true, value_parser = PossibleValuesParser::new(["velro", "guard", "sshd"]))]
    pub pack: Vec<String>,
    /// How actions are written; default: text on a terminal, else json. Commands that ask a server write text or,
    /// with json, its answer
    #[arg(long, value_name = "FORM", global = true, value_parser = PossibleValuesParser::new(["json", "ecs", "text"]))]
    pub output: Option<String>,
    /// Threads that decode and match, 1 to 64; default: the processors there are
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// The summary at the end of run and replay, on standard error; default: text
    #[arg(long, value_name = "FORM", global = true, value_enum)]
    pub summary: Option<SummaryForm>,
    /// Write the summary to this file instead, as JSON unless --summary says otherwise
    #[arg(long, value_name = "FILE", global = true)]
    pub summary_file: Option<String>,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more; with check, what each pattern costs (-vv: everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Common {
    /// The form of actions, if it was said.
    pub fn output(&self) -> Option<Output> {
        let word = self.output.as_deref()?;
        output_words().into_iter().find(|(known, _)| *known == word).map(|(_, output)| output)
    }
}

/// Forms of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SummaryForm {
    /// One JSON object
    Json,
    /// A few lines for people
    Text,
    /// Nothing
    None,
}

/// Flags of `run`.
#[derive(Debug, Args, Default)]
pub struct Run {
    /// Files or globs to follow, through rotation, truncation and new date-named files
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub follow: Vec<String>,
    /// Read the logs of a Railway environment (`railway`; which one, and which services, says
    /// source.railway in the configuration), or standard input (`stdin`) whatever is configured
    #[arg(long, value_name = "KIND", value_parser = ["railway", "stdin"], conflicts_with_all = ["follow", "kafka", "topic", "group", "from"])]
    pub source: Option<String>,
    /// Brokers of a Kafka cluster to read from, host:port, several with commas
    #[arg(long, value_name = "HOSTS", conflicts_with = "follow")]
    pub kafka: Option<String>,
    /// A Kafka topic, or a regular expression of names that begins with ^ (repeatable)
    #[arg(long, value_name = "TOPIC", conflicts_with = "follow")]
    pub topic: Vec<String>,
    /// The Kafka consumer group; default: portcullis
    #[arg(long, value_name = "NAME", conflicts_with = "follow")]
    pub group: Option<String>,
    /// Where to begin: of followed files `beginning` or `end`; of Kafka topics `earliest`, `latest`,
    /// a time or a day (its midnight in `timezone`), for partitions without a known place or whose
    /// place is gone
    #[arg(long, value_name = "PLACE")]
    pub from: Option<String>,
}

/// Flags of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Files (plain, .gz, .zst), folders, globs, or - for standard input
    #[arg(value_name = "FILE", required_unless_present = "kafka", conflicts_with = "kafka")]
    pub files: Vec<String>,
    /// Brokers of a Kafka cluster to read from instead, host:port, several with commas; as no
    /// member of a group, and nothing is committed
    #[arg(long, value_name = "HOSTS", requires = "topic")]
    pub kafka: Option<String>,
    /// A Kafka topic, or a regular expression of names that begins with ^ (repeatable)
    #[arg(long, value_name = "TOPIC", requires = "kafka")]
    pub topic: Vec<String>,
    /// Begin with the first record of this time, or day (from midnight in `timezone`); default: the
    /// oldest there is
    #[arg(long, value_name = "TIME", requires = "kafka")]
    pub from: Option<String>,
    /// End before the first record of this time or day; default: where each partition ends now
    #[arg(long, value_name = "TIME", requires = "kafka")]
    pub to: Option<String>,
    /// Let sinks that change the world act; without it they stay dry. Standard output and file
    /// sinks are written either way
    #[arg(long)]
    pub apply: bool,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Pattern files, configurations or folders; default: what the configuration loads
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A line; without any, the lines of standard input
    #[arg(value_name = "LINE")]
    pub lines: Vec<String>,
}

/// Flags of `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Print every key with its default, unit and range
    #[arg(long)]
    pub example: bool,
}

/// Flags of `state`.
#[derive(Debug, Args)]
pub struct State {
    /// What to do with it
    #[command(subcommand)]
    pub command: StateCommand,
}

/// What to do with a state directory.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Say what it holds; works while it is in use
    Info(StateDir),
    /// Check every page, checksum and number; exit code 1 and a line for each if one is wrong
    Verify(StateDir),
    /// Let go of what no restart needs and make the file small; not while it is in use
    Compact(StateDir),
}

/// Flags of `sink`.
#[derive(Debug, Args)]
pub struct Sink {
    /// What to do
    #[command(subcommand)]
    pub command: SinkCommand,
}

/// What to do with sinks.
#[derive(Debug, Subcommand)]
pub enum SinkCommand {
    /// List them with their names
    List,
    /// Try to reach what a sink acts on or whom it tells, without acting; exit code 1 if it fails
    Test(SinkName),
    /// Take away what a sink made: the table of nftables, for one
    Clean(SinkName),
}

/// A sink by its name.
#[derive(Debug, Args)]
pub struct SinkName {
    /// Its name as `sink list` shows it, or its kind if there is only one of it
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A state directory.
#[derive(Debug, Args)]
pub struct StateDir {
    /// The directory; default: the `state_dir` of the configuration or of $PORTCULLIS_STATE_DIR
    #[arg(value_name = "DIR")]
    pub dir: Option<String>,
}

/// Reads the arguments; on a mistake it prints what clap has to say and ends with exit code 2.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Prints the help.
pub fn print_help() {
    let mut command = <Cli as clap::CommandFactory>::command();
    // A closed standard output is no error here.
    let _closed = command.print_long_help();
}
