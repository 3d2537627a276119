//! What a sink that tells somebody is told: some ops, actions, levels or severities, and what it is
//! a receiver for.

use crate::action::{Action, Op, Word};
use crate::yaml::{Checker, Key, Node};

const OPS: [(&str, Op); 5] = [
    ("start", Op::Start),
    ("extend", Op::Extend),
    ("end", Op::End),
    ("withheld", Op::Withheld),
    ("note", Op::Note),
];
const ACTIONS: [(&str, Word); 5] = [
    ("block", "block"),
    ("lock", "lock"),
    ("require_2fa", "require_2fa"),
    ("alert", "alert"),
    ("under_attack", "under_attack"),
];
const LEVELS: [(&str, Word); 3] =
    [("critical", "critical"), ("warning", "warning"), ("info", "info")];
/// The classes of incident.
pub(super) const SEVERITIES: [(&str, Word); 4] =
    [("P0", "P0"), ("P1", "P1"), ("P2", "P2"), ("P3", "P3")];

/// What a sink is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    on: Vec<Op>,
    /// An empty list, here and below: any, and none.
    actions: Vec<Word>,
    levels: Vec<Word>,
    severities: Vec<Word>,
}

impl Selection {
    /// The keys that it reads.
    pub const KEYS: [&str; 4] = ["on", "actions", "levels", "severities"];

    /// Any action, on these ops.
    pub fn new(on: &[Op]) -> Self {
        let (actions, levels, severities) = (Vec::new(), Vec::new(), Vec::new());
        Self { on: on.to_vec(), actions, levels, severities }
    }

    /// Reads one of its keys; whether it was one.
    pub fn parse(&mut self, checker: &mut Checker<'_>, key: &Key, value: &Node) -> bool {
        match key.name.as_str() {
            "on" => words(checker, value, "`on`", &OPS, &mut self.on),
            "actions" => words(checker, value, "`actions`", &ACTIONS, &mut self.actions),
            "levels" => words(checker, value, "`levels`", &LEVELS, &mut self.levels),
            "severities" => {
                words(checker, value, "`severities`", &SEVERITIES, &mut self.severities);
            }
            _ => return false,
        }
        true
    }

    /// Whether the sink is told of this action. One that is a receiver for some names is told of what
    /// one of them is to be notified of, and, whatever they are, of a note that is a P0: it says
    /// that Portcullis itself cannot do its work.
    pub fn takes(&self, action: &Action, receives: Option<&[String]>) -> bool {
        let among = |words: &[Word], word: Option<Word>| {
            words.is_empty() || word.is_some_and(|word| words.contains(&word))
        };
        let alarm = action.op == Op::Note && action.severity == Some("P0");
        let meant = receives.is_none_or(|names| action.notify.iter().any(|n| names.contains(n)));
        self.on.contains(&action.op)
            && (meant || alarm)
            && among(&self.actions, Some(action.action))
            && among(&self.levels, action.level)
            && among(&self.severities, action.severity)
    }

    /// Whether it is told of this op at all.
    pub fn includes(&self, op: Op) -> bool {
        self.on.contains(&op)
    }

    /// Whether an active decision is told of again, of which no more is known than this.
    pub fn takes_started(&self, action: Word) -> bool {
        self.on.contains(&Op::Start)
            && (self.actions.is_empty() || self.actions.contains(&action))
            && self.levels.is_empty()
            && self.severities.is_empty()
    }
}

fn words<T: Copy>(
    checker: &mut Checker<'_>,
    node: &Node,
    what: &str,
    known: &[(&str, T)],
    into: &mut Vec<T>,
) {
    let items = node.as_list();
    if items.is_empty() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let help = format!("some of: {}; or leave it out", names.join(", "));
        checker.node(node, format!("{what} is empty: nothing would be sent"), Some(help));
        return;
    }
    *into = items.into_iter().filter_map(|item| checker.word(item, what, known)).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::rule::{Severity, Urgency};
    use crate::yaml::Document;

    fn selection(text: &str) -> (Selection, Vec<String>) {
        let document = Document { name: "t.yaml".into(), text: text.into() };
        let mut checker = Checker::new(&document);
        let mut selection = Selection::new(&[Op::Start, Op::Note]);
        let node = checker.parse().unwrap();
        for (key, value) in node.as_map().unwrap() {
            assert!(selection.parse(&mut checker, key, value));
        }
        (selection, checker.problems.iter().map(ToString::to_string).collect())
    }

    fn start() -> Action {
        let note = Action::note("r", Severity::P2, Urgency::Warning, 0, 0, "r".into());
        Action { op: Op::Start, action: "block", notify: vec!["team".into()], ..note }
    }

    #[test]
    fn each_list_narrows_what_is_told() {
        let takes = |text: &str, action: &Action| {
            let (selection, problems) = selection(text);
            assert!(problems.is_empty(), "{problems:#?}");
            selection.takes(action, None)
        };
        assert!(takes("{}", &start()));
        assert!(!takes("{}", &Action { op: Op::End, ..start() }));
        assert!(takes("on: [end]", &Action { op: Op::End, ..start() }));
        assert!(!takes("on: end", &start()));
        assert!(!takes("actions: [lock, alert]", &start()));
        assert!(takes("actions: block", &start()));
        let attack = Action { action: "under_attack", ..start() };
        assert!(takes("actions: under_attack", &attack));
        assert!(!takes("actions: [block, alert]", &attack));
        assert!(!takes("levels: [critical]", &start()));
        assert!(takes("levels: [critical, warning]", &start()));
        assert!(!takes("severities: [P0, P1]", &start()));
        assert!(!takes("severities: [P2]", &Action { severity: None, ..start() }));
    }

    #[test]
    fn a_receiver_is_told_what_it_receives_and_every_p0_note() {
        let (all, _) = selection("{}");
        let names = ["user".to_owned(), "team".to_owned()];
        assert!(all.takes(&start(), Some(&names)));
        assert!(!all.takes(&start(), Some(&names[..1])));
        let note = |severity| Action::note("brake", severity, Urgency::Info, 0, 0, "r".into());
        assert!(all.takes(&note(Severity::P0), Some(&names)));
        assert!(!all.takes(&note(Severity::P1), Some(&names)));
        assert!(all.takes(&note(Severity::P1), None));
    }

    #[test]
    fn words_that_are_not_known_are_told_with_the_nearest() {
        let (_, problems) = selection("on: [strat]\nlevels: []\n");
        assert!(problems[0].contains("did you mean `start`?"), "{problems:#?}");
        assert!(problems[1].contains("`levels` is empty: nothing would be sent"), "{problems:#?}");
    }
}
