//! The integration tests, one binary. Where a test belongs:
//!
//! * [`output`]: the bytes of the action line and what is derived from them
//! * [`golden`]: folders of input and expected output, found by listing `fixtures/`
//! * [`traps`]: ways in which real logs have fooled real tools
//! * [`carriers`]: the same events in every envelope give the same actions
//! * [`stream`]: what rules, guards, the clock and the ledger do, end to end
//! * [`determinism`]: threads, block sizes, compression, live or replayed: the same bytes
//! * [`accounting`]: every line and record has exactly one outcome, whatever it holds
//! * [`hostile`]: text in a log never chooses who is blocked
//! * [`binary`]: the program as users run it: flags, exit codes, messages, signals
//! * [`bouncers`]: real bouncers, nginx and HAProxy, fed by the Local API and the lists; needs root,
//!   Debian, Python and Node.js
//! * [`edge`]: the platform's word about a request, which nobody else can say
//! * [`container`]: where images break: nothing writable, no shell, no users; what Dockerfile promises
//! * [`fastapi`]: the example for FastAPI with the real one; needs Python
//! * [`railway_pipe`]: README's way to pipe Railway's command line, with a stand-in for it
//! * [`follow`]: files that are followed through rotation
//! * [`lasting`]: what outlives the process: captured, written down, read again
//! * [`disk`]: disks that fail or are full under the running program
//! * [`reader`]: who reads standard output slowly or not at all holds up nobody
//! * [`restart`]: killed at any moment, it says what an undisturbed run says
//! * [`starting`]: what a start finds in its state directory, and says of it
//! * [`reload`]: rules that change while a stream runs
//! * [`dedupe`]: records that come again are counted once
//! * [`double`]: an HTTP peer inside the test, for the tests of what calls one
//! * [`service`]: the program as a service, for the tests that stop it
//! * [`serve`]: the HTTP server: who is let in, what is told, and what hostile clients cannot do
//! * [`kafka`]: the Kafka source and sink, against brokers inside the test
//! * [`broker`]: the same with a real Apache Kafka, where only that tells the truth; needs Java 17
//!   and Maven
//! * [`partitions`]: several partitions of a topic in one order, killed and fetched in any way; what
//!   is killed reads from the broker of [`broker`]
//! * [`simulation`]: many instances, crashes and restarts on a log in memory, against one machine
//! * [`memory`]: ceilings that hold under floods and monsters
//! * [`state`]: what lasts: errors, damage, faults of the disk at every single write
//! * [`netns`]: two network namespaces with real packets, for the tests that drop them
//! * [`webhook`]: messages over HTTP, verified by the libraries of their receivers; needs Python
//! * [`alertmanager`]: alerts in a real Prometheus Alertmanager; needs Debian's apt
//! * [`nftables`]: the kernel's firewall keeps real packets out, and lets them in again
//! * [`command_sink`]: programs that are given action lines, well-behaved or not
//! * [`hand`]: orders of people and what follows from them
//! * [`gate`]: the whole way, from lines of a log to packets that are dropped
//! * [`mixes`]: the streams that the benches measure are what they are said to be
//! * [`readme`]: what README shows is what happens
//! * [`crowdsec_push`]: blocks that go into a real CrowdSec
//! * [`identities`]: accounts with two spellings, and whom the names in `notify` mean
//! * [`mail`]: messages that reach a real SMTP server
//! * [`railway_sink`]: edge rules and Under Attack Mode, against a stand-in for Railway's API
//! * [`remotes`]: what the tests of sinks on threads of their own share
//! * [`supabase`]: accounts that are locked, against a double of Supabase Auth
//! * [`railway`]: the Railway source, against a stand-in for its API
//! * [`railway_run`]: the program that reads Railway by itself, against it too
//! * [`railway_double`]: that stand-in, for every test of what calls Railway
//! * [`told`]: what a running program tells those who ask it and look at it
//! * [`tidy`]: the house rules: who may use whom, and that files say what they are
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::allow_attributes,
    reason = "tests say what is wrong by panicking, and print what they measured"
)]

mod accounting;
mod alertmanager;
mod binary;
mod bouncers;
#[cfg(feature = "kafka")]
mod broker;
mod carriers;
mod container;
mod crowdsec_push;
mod dedupe;
mod determinism;
mod disk;
mod double;
mod edge;
mod fastapi;
mod follow;
mod golden;
mod hostile;
mod identities;
mod lasting;
#[cfg(feature = "kafka")]
mod kafka;
mod mail;
mod memory;
#[path = "../../benches/mix.rs"]
mod mix;
mod gate;
mod hand;
mod mixes;
mod netns;
mod nftables;
mod command_sink;
mod output;
#[cfg(feature = "kafka")]
mod partitions;
mod railway;
mod railway_double;
mod railway_run;
mod railway_sink;
mod railway_pipe;
mod reader;
mod readme;
mod reload;
mod remotes;
mod restart;
mod serve;
mod service;
mod simulation;
mod starting;
mod state;
mod stream;
mod supabase;
mod support;
mod tidy;
mod told;
mod traps;
mod webhook;
