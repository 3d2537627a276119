//! Portcullis watches the logs of an application and closes the gate on attackers.
//!
//! Lines go in: structured JSON from standard input, from files, from Kafka or from Railway. Action lines come
//! out: block this address, lock this account, ask for a second factor, tell somebody. Between the two,
//! nothing is estimated and nothing depends on the machine: the same bytes with the same settings
//! give the same actions, live or replayed, with one thread or sixteen.
//!
//! ```
//! use portcullis::{assembly::Assembly, config::Settings, source::Batch};
//!
//! let assembly = Assembly::new(&Settings::default(), &[]).expect("the built-in packs are sound");
//! let mut engine = assembly.engine();
//! let line = "FAILED_LOGIN: email=user@example.org, ip=203.0.113.7, reason=invalid_password\n";
//! let record = |n: u64| format!("2025-08-03T22:30:{n:02}Z [WARN] {line}");
//! let bytes = (0..21).map(record).collect::<String>().into_bytes();
//! let batch = Batch { source: 0, bytes, ..Batch::default() };
//! engine.apply_batch(assembly.scanner.scan(batch), None);
//!
//! let actions = engine.take_actions();
//! let block = actions.iter().find(|action| action.action == "block").expect("the 21st blocks");
//! assert_eq!(block.target.value.as_deref(), Some("203.0.113.7"));
//! assert_eq!(block.reason, "21 FAILED_LOGIN from 203.0.113.7 within 1h");
//! ```
//!
//! # The map
//!
//! Read aloud, in the order in which data flows: a [`source`] gives batches of whole lines;
//! [`decode`] gives them fields by role, with the place each came from; [`pattern`] gives them
//! names; [`window`] says how often; [`detect`] applies the rules; an [`action`] line says what is
//! to be done; [`decide`] knows what is active and what is forbidden, and writes those lines; a
//! [`sink`] carries them out.
//!
//! * [`engine`] holds the two halves together: [`engine::scan`] decodes and matches on any thread,
//!   [`engine::order`] is the single writer that takes lines in canonical order, and
//!   [`engine::core`] the state machine behind it, which applies their records to the stream's
//!   [clock](engine::clock), the detector and the ledger, and keeps the
//!   [accounting](engine::summary). Everything that comes into it can be written down as an
//!   [entry](engine::entry), and all that it knows can be captured and restored; the
//!   [rules and guards](engine::judge) by which it judges are kept beside them. Records that come again
//!   are told by their place or by [what they say](engine::seen). [`engine::ask`] is how
//!   other threads ask it something or hand it an order: it answers between two batches.
//! * [`decide::line`] is a line that is due: what it tells was taken where it happened, as bytes
//!   ([`window::told`]); a replay with several threads has it written on one of its own.
//! * [`decide::hand`] carries out what people order, and takes in decisions that outlived their rule;
//!   [`decide::board`] is what is in force, written after each commit, read by [`serve`] and by sinks
//!   that compare the world with it.
//! * [`state`] keeps in a state directory what a restart needs, whole or not at all.
//! * [`pipeline`] starts threads, bounds queues, merges files and partitions by time, lets actions
//!   leave only when they last, and shuts down; `pipeline::remotes` drives the sinks that act or tell
//!   somebody ([`sink::remote`]), each on a thread of its own, so that none holds up the stream or another;
//!   [`telemetry`] is what the program says about itself.
//! * [`serve`] is the HTTP server, on a thread of its own: one [table of routes](serve::routes), one
//!   [door](serve::auth), decisions for [bouncers](serve::lapi) and as [lists](serve::blocklist), figures,
//!   and the [orders](serve::api) of operators.
//! * [`mod@kafka`] and [`railway`] are what the source and the sink of that name share; [`host`] knows
//!   which hosts are this machine.
//! * [`yaml`] reads everything that a user writes, with places; [`config`] checks the settings,
//!   [`pack`] the files of patterns and rules;
//!   [`assembly`] puts packs, rules and settings together; [`cli`] and [`command`] are the program.
//!
//! # What holds
//!
//! * Arrows point to the left in: source, decode, pattern, window, detect, action, decide, sink.
//!   decode, pattern, window, detect, action and decide do no I/O, ask no clock and start nothing. A source knows no pattern; a sink knows only actions. A test holds this.
//! * An order by hand comes to the engine as an entry like every other, is journalled, and leaves as action
//!   lines: what people did survives a restart as what rules did.
//! * Time inside is one integer type, microseconds of the record's own time. Only the pipeline
//!   reads the wall clock for the stream: for records that have no time, for idle streams, and for sinks.
//!   [`serve`] says with it when an order was given.
//! * Every line and every record has exactly one outcome, and the outcomes add up. Every queue,
//!   map and list that the input can grow has a bound, and reaching a bound is said.
//! * Structure beats text, and where two readings or two fields differ, neither is used: what an
//!   attacker wrote into a log chooses nobody.
//!
//! # Adding things
//!
//! | to add | write | also edit |
//! |---|---|---|
//! | a pattern or rule | YAML in `patterns/`, its tests inside | nothing |
//! | a built-in pack | a file in `patterns/` | [`pack::PACKS`] |
//! | a sink of lines | one file in `src/sink/` | its entries in `src/sink/mod.rs`, the example, README, CHANGELOG |
//! | a sink that acts or tells | the same, with a [`sink::remote::Remote`] that may do everything twice | the same |
//! | something to ask for | a handler in `src/serve/` | [`serve::routes::ROUTES`], [`serve::openapi`], README |
//! | an order by hand | an arm in [`action::order::What`] and in [`decide::hand`] | [`engine::entry`], [`serve::api`], [`cli`], [`mod@command::client`] |
//! | a condition | an arm in [`detect::condition`], its window in [`window`] or [`detect`] | the table in README |
//! | an envelope or time form | one function in [`decode::envelope`] or [`decode::time`] | a fixture |

#![deny(unsafe_code)]

pub mod source;
pub mod decode;
pub mod pattern;
pub mod window;
pub mod detect;
pub mod action;
pub mod decide;
pub mod sink;
pub mod state;
pub mod engine;
pub mod serve;
pub mod pipeline;
pub mod telemetry;
pub mod yaml;
pub mod kafka;
pub mod railway;
pub mod host;
pub mod config;
pub mod pack;
pub mod assembly;
pub mod cli;
pub mod command;
