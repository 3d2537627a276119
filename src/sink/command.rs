//! The sink `command`: a program of the user's own that is run once for every line.
//!
//! It is run by its list of arguments, never by a shell, and reads the line as JSON on its standard
//! input: nothing that stood in a log is ever an argument or a variable. Its exit code says what
//! became of it: 0 is done, 75 (`EX_TEMPFAIL`) asks for another try, any other is final.

use super::Context;
use super::program::{Ended, Outcome, Program, probe};
use super::remote::{Progress, Remote, Trouble, one_by_one};
use crate::action::{Action, Op, escape};
use crate::decode::time::{Micros, format_duration};
use crate::yaml::{Checker, Key, Node};
use std::time::{Duration, SystemTime};

/// The exit code of a program that wants to be asked again.
const TRY_AGAIN: i32 = 75;
/// Where a program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OPS: [(&str, Op); 5] = [
    ("start", Op::Start),
    ("extend", Op::Extend),
    ("end", Op::End),
    ("withheld", Op::Withheld),
    ("note", Op::Note),
];
const ACTIONS: [(&str, &str); 5] = [
    ("block", "block"),
    ("lock", "lock"),
    ("require_2fa", "require_2fa"),
    ("alert", "alert"),
    ("under_attack", "under_attack"),
];

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The program's absolute path, and its arguments.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// The lines that it is given, by what happens.
    pub on: Vec<Op>,
    /// The lines that it is given, by what is done.
    pub actions: Vec<&'static str>,
    /// The variables of our environment that it is given too.
    pub env: Vec<String>,
}

impl Options {
    /// A program with the usual settings.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            timeout: Duration::from_secs(10),
            on: vec![Op::Start, Op::Extend, Op::End],
            actions: ACTIONS.iter().map(|(_, action)| *action).collect(),
            env: Vec::new(),
        }
    }

    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        const KEYS: [&str; 5] = ["argv", "timeout", "on", "actions", "env"];
        let before = checker.problems.len();
        let mut options = Self::new(Vec::new());
        for (key, value) in checker.map(value, "the sink `command`", &KEYS) {
            options.option(checker, key, value);
        }
        if value.get("argv").is_none() {
            let help = "for example  - command: { argv: [/usr/local/bin/on-action, --fast] }";
            checker.key(key, "the sink `command` needs `argv`", Some(help.into()));
        }
        (checker.problems.len() == before).then_some(options)
    }

    fn option(&mut self, checker: &mut Checker<'_>, key: &Key, value: &Node) {
        let what = format!("`{}`", key.name);
        let empty = |checker: &mut Checker<'_>, list: &[&Node], help: &str| {
            if list.is_empty() {
                checker.key(key, format!("{what} is empty"), Some(help.to_owned()));
            }
        };
        let items = value.as_list();
        match key.name.as_str() {
            "argv" => {
                self.argv = checker.texts(value, &what);
                empty(checker, &items, "it begins with the path of a program");
                if let (Some(item), Some(path)) = (items.first(), self.argv.first()) {
                    if !path.starts_with('/') {
                        let help = "no shell and no search path finds it: write for example /usr/local/bin/on-action".to_owned();
                        let message = format!("`argv`: `{path}` is no absolute path");
                        checker.node(item, message, Some(help));
                    } else if path.contains(' ') && items.len() == 1 && probe(path).is_err() {
                        let help = "each argument is an item of its own: [/bin/program, argument]";
                        let message = "`argv` is a list of arguments, not a command line";
                        checker.node(item, message, Some(help.into()));
                    }
                }
                if self.argv.iter().any(|text| text.contains('\0')) {
                    checker.node(value, "`argv`: no argument can hold a NUL byte", None);
                }
            }
            "timeout" => {
                if let Some(timeout) = checker.duration(value, &what, 100_000) {
                    self.timeout = Duration::from_micros(timeout.unsigned_abs());
                }
            }
            "on" => {
                let words = items.iter().filter_map(|item| checker.word(item, &what, &OPS));
                self.on = words.collect();
                empty(checker, &items, "leave it out for start, extend and end");
            }
            "actions" => {
                let words = items.iter().filter_map(|item| checker.word(item, &what, &ACTIONS));
                self.actions = words.collect();
                empty(checker, &items, "leave it out for all of them");
            }
            "env" => {
                self.env = checker.texts(value, &what);
                for (item, name) in items.iter().zip(&self.env) {
                    if name.is_empty() || name.contains(['=', '\0']) {
                        let help =
                            "the name of a variable; its value is the one we were started with";
                        let message = "`env` names variables, without their values";
                        checker.node(item, message, Some(help.into()));
                    }
                }
            }
            _ => {}
        }
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        format!("command {}", self.path())
    }

    fn path(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// When the program is not there or may not be run, or a variable is not set.
    pub fn open(&self, _context: &Context) -> Result<Box<dyn Remote>, String> {
        probe(self.path())?;
        let mut env = Vec::new();
        if !self.env.iter().any(|name| name == "PATH") {
            env.push(("PATH".to_owned(), PATH.to_owned()));
        }
        for name in &self.env {
            let value = std::env::var(name)
                .map_err(|_| format!("`env`: the variable {name} is not set, or is no text"))?;
            env.push((name.clone(), value));
        }
        Ok(Box::new(Runner { options: self.clone(), env: Environment(env) }))
    }
}

/// Variables with their values, which may be secret.
struct Environment(Vec<(String, String)>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The sink at work.
#[derive(Debug)]
struct Runner {
    options: Options,
    env: Environment,
}

impl Runner {
    fn run(&self, action: &Action) -> Result<(), Trouble> {
        let mut line = action.json();
        line.push('\n');
        let program = Program {
            argv: &self.options.argv,
            env: &self.env.0,
            input: line.as_bytes(),
            timeout: self.options.timeout,
            output_max: 0,
        };
        let path = self.options.path();
        let outcome = program
            .run()
            .map_err(|error| Trouble::later(format!("{path} cannot be run: {error}")))?;
        let Outcome { ended, .. } = outcome;
        let told = outcome.first_line().map(|line| format!(": {}", escape(line)));
        let told = told.unwrap_or_default();
        match ended {
            Ended::Code(0) => Ok(()),
            Ended::Code(TRY_AGAIN) => {
                Err(Trouble::later(format!("{path} asks to be tried again{told}")))
            }
            Ended::Code(code) => {
                Err(Trouble::refused(format!("{path} ended with exit code {code}{told}")))
            }
            Ended::Signal(signal) => {
                Err(Trouble::later(format!("{path} was ended by signal {signal}{told}")))
            }
            Ended::TimedOut | Ended::TooMuch => {
                let limit = Micros::try_from(self.options.timeout.as_micros()).unwrap_or_default();
                let limit = format_duration(limit);
                let why = format!("{path} was not done after {limit} and was killed{told}");
                Err(Trouble::later(why))
            }
        }
    }
}

impl Remote for Runner {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        action.mode == "enforce"
            && self.options.on.contains(&action.op)
            && self.options.actions.contains(&action.action)
    }

    fn deliver(&mut self, actions: &[Action], _now: SystemTime) -> Progress {
        one_by_one(actions, |action| self.run(action))
    }

    fn would(&self, action: &Action) -> String {
        let (op, target) = (action.op.name(), escape(action.target.text()));
        format!("run {} for {op} {} {target}", self.options.path(), action.action)
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let path = self.options.path();
        probe(path)?;
        Ok(format!("{path} is there and may be run; only an action runs it"))
    }
}
