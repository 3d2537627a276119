//! The edge rules of a service: which of them are ours, and how they are with others of ours.
//!
//! Railway replaces them as a whole, so what is written holds the owner's rules as they were read, with
//! every key, known or not. Ours are known by how their description begins; it is the one field of a rule
//! that is for people alone, and Railway keeps it. There it also says when the last of its addresses ends:
//! a rule has no end of its own, and whoever has forgotten everything must be able to tell. So addresses
//! of which no more is known than that end stay in a rule of their own: beside others they would be given
//! a later one by every start.

use crate::action::decision::instant_of;
use crate::decode::time::{self, Micros};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Values in one list of a condition.
const VALUES_MAX: usize = 64;
/// Conditions in one rule.
const CONDITIONS_MAX: usize = 32;
/// Addresses and ranges in one rule.
pub const PER_RULE: usize = VALUES_MAX * CONDITIONS_MAX;
/// Bytes of all rules together. Railway takes 64 KiB, and adds the ids of new rules.
const BYTES_MAX: usize = 63 << 10;
/// Bytes that one value takes at most, with its quotes and comma: `"255.255.255.255/32",`.
const VALUE_BYTES: usize = 21;
/// The one version that is known.
const VERSION: u64 = 1;
/// How a description goes on behind the mark.
const MADE: &str = ": made by Portcullis, which changes it; the last in it ends ";

/// The rules of a service, as they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruleset(Value);

/// Somebody to keep out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The address or range.
    pub net: Ipv4Net,
    /// When that ends.
    pub until: Micros,
    /// An earlier run has put it there: the end is only what its rule says.
    pub is_before: bool,
}

/// What our rules say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Whom they keep out, and when the last in the same rule ends; none if that cannot be read.
    pub ends: BTreeMap<Ipv4Net, Option<Micros>>,
    /// How many rules they are.
    pub rules: usize,
    /// One of them is not as it was written.
    pub is_changed: bool,
}

/// Rules as they are to be.
#[derive(Debug)]
pub struct Fitted {
    /// All of them, the owner's too; `null` if there are none.
    pub value: Value,
    /// Whom ours keep out.
    pub nets: BTreeSet<Ipv4Net>,
    /// How many rules are ours.
    pub rules: usize,
    /// An owner's rule that comes before one of ours.
    pub behind: Option<u64>,
}

impl Ours {
    /// Whom they keep out.
    pub fn nets(&self) -> BTreeSet<Ipv4Net> {
        self.ends.keys().copied().collect()
    }

    /// Whether one of `kept` ends later than its rule says, so that a new start would drop it early.
    pub fn is_behind(&self, kept: &[Kept]) -> bool {
        let said = |one: &Kept| self.ends.get(&one.net).copied();
        kept.iter().any(|one| said(one).is_some_and(|end| end < Some(one.until)))
    }
}

impl Ruleset {
    /// Reads them; `null` is none.
    ///
    /// # Errors
    /// When they are of a kind that is not known, and so must be left alone.
    pub fn of(value: Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(Self(json!({ "version": VERSION, "rules": [] })));
        }
        let version = value.get("version").unwrap_or(&Value::Null);
        if version.as_u64() != Some(VERSION) {
            return Err(format!(
                "the edge rules are of version {version}, and only {VERSION} is known here: they are \
                 left alone"
            ));
        }
        if !value.get("rules").is_some_and(Value::is_array) {
            return Err("the edge rules have no list `rules`: they are left alone".to_owned());
        }
        Ok(Self(value))
    }

    fn rules(&self) -> &[Value] {
        self.0.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// What those of ours say, that are marked so.
    pub fn ours(&self, mark: &str) -> Ours {
        let mut ours = Ours::default();
        for rule in self.rules().iter().filter(|rule| is_ours(rule, mark)) {
            ours.rules += 1;
            let end = description(rule).split_once(MADE).and_then(|(_, end)| instant_of(end));
            let Some(nets) = kept_out(rule) else {
                ours.is_changed = true;
                continue;
            };
            for net in nets {
                let said = ours.ends.entry(net).or_default();
                *said = (*said).max(end);
            }
        }
        ours
    }

    /// The owner's rules with ours for as many of `ranked` as there is room for, from the first on, in
    /// at most `rules_max` rules. Rules of ours that are there keep their ids and places; new ones come
    /// as early as there is room between the owner's, since the first rule that fits a request decides it.
    pub fn fit(&self, mark: &str, ranked: &[Kept], rules_max: usize) -> Fitted {
        let mut count = ranked.len().min(rules_max.saturating_mul(PER_RULE));
        loop {
            let chosen = ranked.get(..count).unwrap_or_default();
            let fitted = self.with(mark, parts(chosen, rules_max));
            let over = fitted.value.to_string().len().saturating_sub(BYTES_MAX);
            if over == 0 || count == 0 {
                return fitted;
            }
            count = count.saturating_sub(over.div_ceil(VALUE_BYTES));
        }
    }

    fn with(&self, mark: &str, parts: Vec<Part>) -> Fitted {
        let (mut own, others): (Vec<&Value>, Vec<&Value>) =
            self.rules().iter().partition(|rule| is_ours(rule, mark));
        let taken: BTreeSet<u64> = others.iter().filter_map(|rule| priority(rule)).collect();
        own.sort_by_key(|rule| priority(rule));
        let texts: Vec<String> =
            parts.iter().map(|part| format!("{mark}{MADE}{}", time::format(part.until))).collect();
        // A rule that says the same end is the same one; those that are left take any other.
        let mut stood: Vec<Option<&Value>> = texts
            .iter()
            .map(|text| {
                let at = own.iter().position(|rule| description(rule) == text);
                at.map(|at| own.remove(at))
            })
            .collect();
        let mut left = own.into_iter();
        stood.iter_mut().filter(|rule| rule.is_none()).for_each(|rule| *rule = left.next());
        let kept: BTreeSet<u64> =
            stood.iter().flatten().filter_map(|rule| priority(rule)).collect();
        let mut free = (0u64..).filter(|at| !taken.contains(at) && !kept.contains(at));
        let mut rules: Vec<Value> = others.iter().map(|rule| (*rule).clone()).collect();
        let mut last = None;
        for ((part, text), before) in parts.iter().zip(texts).zip(stood) {
            let at = before.and_then(priority).or_else(|| free.next());
            let mut rule = json!({
                "description": text,
                "priority": at,
                "enabled": true,
                "if": condition(&part.nets),
                "then": { "action": "block", "params": { "status": 403 } },
            });
            if let Some(id) = before.and_then(|rule| rule.get("id")) {
                rule["id"] = id.clone();
            }
            last = last.max(at);
            rules.push(rule);
        }
        let behind = last.and_then(|last| taken.range(..last).next().copied());
        let has_more = self.0.as_object().is_some_and(|all| all.len() > 2);
        let value = if rules.is_empty() && !has_more {
            Value::Null
        } else {
            let mut all = self.0.clone();
            all["rules"] = Value::Array(rules);
            all
        };
        let rules = parts.len();
        let nets = parts.into_iter().flat_map(|part| part.nets).collect();
        Fitted { value, nets, rules, behind }
    }
}

/// What comes into one rule.
#[derive(Debug)]
struct Part {
    nets: Vec<Ipv4Net>,
    /// When the last of them ends.
    until: Micros,
}

/// Parts `chosen` into at most `rules_max` rules: those of this run, and those of earlier ones by their
/// ends. Where there are too few rules for that, those that end first go with the next.
fn parts(chosen: &[Kept], rules_max: usize) -> Vec<Part> {
    let mut groups: BTreeMap<Reverse<Micros>, Vec<Kept>> = BTreeMap::new();
    for one in chosen {
        let end = if one.is_before { one.until } else { Micros::MAX };
        groups.entry(Reverse(end)).or_default().push(*one);
    }
    let mut groups: Vec<Vec<Kept>> = groups.into_values().collect();
    let rules = |group: &Vec<Kept>| group.len().div_ceil(PER_RULE);
    while groups.len() > 1 && groups.iter().map(rules).sum::<usize>() > rules_max {
        let last = groups.pop().unwrap_or_default();
        groups.iter_mut().next_back().into_iter().for_each(|next| next.extend(&last));
    }
    let mut parts = Vec::new();
    for group in groups {
        let until = group.iter().map(|one| one.until).max().unwrap_or_default();
        let nets: BTreeSet<Ipv4Net> = group.iter().map(|one| one.net).collect();
        let nets: Vec<Ipv4Net> = nets.into_iter().collect();
        parts.extend(nets.chunks(PER_RULE).map(|nets| Part { nets: nets.to_vec(), until }));
    }
    parts
}

fn description(rule: &Value) -> &str {
    rule.get("description").and_then(Value::as_str).unwrap_or_default()
}

fn is_ours(rule: &Value, mark: &str) -> bool {
    description(rule).strip_prefix(mark).is_some_and(|rest| rest.starts_with(MADE))
}

fn priority(rule: &Value) -> Option<u64> {
    rule.get("priority").and_then(Value::as_u64)
}

fn condition(nets: &[Ipv4Net]) -> Value {
    let mut lists: Vec<Value> = nets
        .chunks(VALUES_MAX)
        .map(|part| {
            let values: Vec<String> = part.iter().map(shown).collect();
            json!({ "attr": "ipv4.src", "op": "in", "value": values })
        })
        .collect();
    match lists.len() {
        1 => lists.remove(0),
        _ => json!({ "or": lists }),
    }
}

/// An address or a range as a rule has it.
pub fn shown(net: &Ipv4Net) -> String {
    if net.prefix_len() == 32 { net.addr().to_string() } else { net.to_string() }
}

/// Whom a rule of ours keeps out; none if it is not as we write them.
fn kept_out(rule: &Value) -> Option<Vec<Ipv4Net>> {
    let is_on = rule.get("enabled").is_none_or(|on| *on == Value::Bool(true));
    let blocks = rule.get("then")?.get("action")? == "block";
    let condition = rule.get("if")?;
    let lists = match condition.get("or") {
        Some(lists) => lists.as_array()?.as_slice(),
        None => std::slice::from_ref(condition),
    };
    let mut nets = Vec::new();
    for list in lists {
        let (attr, op) = (list.get("attr")?, list.get("op")?);
        if attr != "ipv4.src" || op != "in" {
            return None;
        }
        for value in list.get("value")?.as_array()? {
            let text = value.as_str()?;
            let one = text.parse::<Ipv4Addr>().map(Ipv4Net::from).ok();
            nets.push(one.or_else(|| text.parse::<Ipv4Net>().ok())?);
        }
    }
    (is_on && blocks).then_some(nets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: &str = "portcullis";
    const HOUR: Micros = 3_600_000_000;

    fn ranked(count: u32) -> Vec<Kept> {
        let net = |n: u32| Ipv4Net::from(Ipv4Addr::from(0xcb00_7100 + n));
        let one = |n| Kept { net: net(n), until: HOUR + Micros::from(n), is_before: false };
        (0..count).map(one).collect()
    }

    fn nets(kept: &[Kept]) -> BTreeSet<Ipv4Net> {
        kept.iter().map(|one| one.net).collect()
    }

    fn owners() -> Value {
        json!({ "version": 1, "rules": [
            { "id": "rul_a", "description": "office", "priority": 10, "if": { "attr": "http.path", "op": "matches",
              "value": "/admin*" }, "then": { "action": "allow" }, "later": { "keys": [1.5, null] } },
            { "id": "rul_b", "priority": 1, "enabled": false, "if": { "not": { "attr": "http.host", "op": "eq",
              "value": "x" } }, "then": { "action": "redirect", "params": { "host": "y" } } },
        ] })
    }

    fn written(before: &Value, ranked: &[Kept], rules_max: usize) -> Fitted {
        Ruleset::of(before.clone()).unwrap().fit(MARK, ranked, rules_max)
    }

    #[test]
    fn what_is_written_is_read_again() {
        for count in [0, 1, 64, 65, 2048, 2049, 3000] {
            let fitted = written(&Value::Null, &ranked(count), 5);
            let ours = Ruleset::of(fitted.value).unwrap().ours(MARK);
            assert_eq!((ours.ends.len(), ours.is_changed), (count as usize, false));
            assert_eq!((ours.nets(), ours.rules), (fitted.nets, fitted.rules));
            let last = HOUR + Micros::from(count) - 1;
            assert!(ours.ends.values().all(|end| *end == Some(last)));
            assert!(!ours.is_behind(&ranked(count)));
        }
        assert_eq!(written(&Value::Null, &[], 5).value, Value::Null);
    }

    #[test]
    fn no_list_and_no_rule_is_longer_than_railway_takes() {
        let fitted = written(&Value::Null, &ranked(3000), 5);
        let rules = fitted.value["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 2);
        let lists = |rule: &Value| rule["if"]["or"].as_array().unwrap().clone();
        assert_eq!((lists(&rules[0]).len(), lists(&rules[1]).len()), (32, 15));
        for list in rules.iter().flat_map(lists) {
            assert!(list["value"].as_array().unwrap().len() <= 64, "{list}");
        }
        // Few need no `or`.
        let one = written(&Value::Null, &ranked(2), 5).value["rules"][0]["if"].clone();
        let list =
            json!({ "attr": "ipv4.src", "op": "in", "value": ["203.0.113.0", "203.0.113.1"] });
        assert_eq!(one, list);
        // One rule less, and what comes first stays.
        let fitted = written(&Value::Null, &ranked(3000), 1);
        assert_eq!((fitted.rules, fitted.nets.len()), (1, 2048));
        assert_eq!(fitted.nets, nets(&ranked(2048)));
    }

    #[test]
    fn what_an_earlier_run_has_put_there_keeps_its_rule_and_its_end() {
        let all = ranked(9);
        let before = |kept: &[Kept], until: Micros| -> Vec<Kept> {
            kept.iter().map(|one| Kept { until, is_before: true, ..*one }).collect()
        };
        let end = |value: &Value, n: u32| {
            let ours = Ruleset::of(value.clone()).unwrap().ours(MARK);
            ours.ends[&all[n as usize].net].unwrap()
        };
        let mut first = written(&owners(), &all[..3], 5).value;
        first["rules"][2]["id"] = json!("rul_c");
        let stood = before(&all[..3], HOUR + 2);
        assert_eq!(written(&first, &stood, 5).value, first);
        // One of this run comes beside it, and its rule is as it was.
        let kept = [&all[6..7], &stood].concat();
        let second = written(&first, &kept, 5);
        assert_eq!((second.rules, &second.nets), (2, &nets(&kept)));
        assert!(second.value["rules"].as_array().unwrap().contains(&first["rules"][2]));
        assert_eq!((end(&second.value, 0), end(&second.value, 6)), (HOUR + 2, HOUR + 6));
        // By the next run there are two ends. With fewer rules the later one counts for both.
        let kept = [&all[8..9], &before(&all[6..7], HOUR + 6), &stood].concat();
        for (rules_max, ends) in [(3, [2, 6, 8]), (2, [6, 6, 8]), (1, [8, 8, 8])] {
            let third = written(&second.value, &kept, rules_max);
            assert_eq!((third.rules, &third.nets), (rules_max, &nets(&kept)));
            let said = [0, 6, 8].map(|n| end(&third.value, n) - HOUR);
            assert_eq!(said, ends, "{rules_max}");
        }
        // An end that was put off is seen, also where the one in the rule cannot be read.
        let mut ours = Ruleset::of(second.value).unwrap().ours(MARK);
        assert!(!ours.is_behind(&all[..3]) && ours.is_behind(&before(&all[..1], HOUR + 3)));
        ours.ends.insert(all[0].net, None);
        assert!(ours.is_behind(&all[..1]));
    }

    #[test]
    fn all_together_stay_below_the_limit_of_bytes() {
        let mut before = owners();
        before["rules"][0]["then"]["params"] = json!({ "body": "x".repeat(40_000) });
        let fitted = written(&before, &ranked(2000), 5);
        let bytes = fitted.value.to_string().len();
        assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX - 2000, "{bytes}");
        assert!(fitted.nets.len() < 2000 && fitted.nets.len() > 1000, "{}", fitted.nets.len());
        // Where the owner's own fill it, nothing of ours is there, and theirs are as they were.
        before["rules"][0]["then"]["params"] = json!({ "body": "x".repeat(70_000) });
        let fitted = written(&before, &ranked(3), 5);
        assert_eq!((fitted.rules, &fitted.value), (0, &before));
    }

    #[test]
    fn the_owners_rules_stay_and_ours_come_first_where_there_is_room() {
        let fitted = written(&owners(), &ranked(2), 5);
        let rules = fitted.value["rules"].as_array().unwrap();
        assert_eq!(rules[..2], owners()["rules"].as_array().unwrap()[..]);
        assert_eq!((rules[2]["priority"].as_u64(), fitted.behind), (Some(0), None));
        // Ours keep their id and their place, wherever the owner moved them.
        let mut now = fitted.value.clone();
        now["rules"][2]["id"] = json!("rul_c");
        now["rules"][2]["priority"] = json!(7);
        let fitted = written(&now, &ranked(3), 5);
        let rule = &fitted.value["rules"][2];
        assert_eq!((rule["id"].as_str(), rule["priority"].as_u64()), (Some("rul_c"), Some(7)));
        assert_eq!(fitted.behind, Some(1));
        // A second one of ours goes to the next free place.
        let fitted = written(&owners(), &ranked(2049), 5);
        let places: Vec<u64> =
            fitted.value["rules"].as_array().unwrap().iter().filter_map(priority).collect();
        assert_eq!((places, fitted.behind), (vec![10, 1, 0, 2], Some(1)));
        // And all that is ours goes.
        assert_eq!(written(&now, &[], 5).value, owners());
    }

    #[test]
    fn ours_are_known_by_their_description_and_seen_when_changed() {
        let fitted = written(&owners(), &ranked(2), 5);
        assert_eq!(Ruleset::of(fitted.value.clone()).unwrap().ours("portcullis other").rules, 0);
        assert_eq!(Ruleset::of(owners()).unwrap().ours(MARK), Ours::default());
        let named = json!({ "version": 1, "rules": [{ "description": "portcullis: mine", "priority": 3 }] });
        assert_eq!(written(&named, &[], 5).value, named);
        for (key, value) in [
            ("enabled", json!(false)),
            ("then", json!({ "action": "allow" })),
            ("if", json!({ "attr": "http.path", "op": "eq", "value": "/" })),
            ("if", json!({ "attr": "ipv4.src", "op": "not_in", "value": ["203.0.113.0"] })),
            ("if", json!({ "attr": "ipv4.src", "op": "in", "value": ["x"] })),
        ] {
            let mut changed = fitted.value.clone();
            changed["rules"][2][key] = value;
            let ours = Ruleset::of(changed).unwrap().ours(MARK);
            assert!(ours.is_changed && ours.rules == 1, "{key}");
        }
    }

    #[test]
    fn rules_of_an_unknown_kind_are_left_alone() {
        let newer = Ruleset::of(json!({ "version": 2, "rules": [] })).unwrap_err();
        assert!(newer.contains("version 2"), "{newer}");
        assert!(Ruleset::of(json!([])).is_err());
        assert!(Ruleset::of(json!({ "version": 1, "rules": {} })).is_err());
        // What stands beside the rules stays, also without rules.
        let more = json!({ "version": 1, "rules": [], "default": "allow" });
        assert_eq!(written(&more, &[], 5).value, more);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_of_the_owners_is_lost(
            rules in prop::collection::vec(
                prop::sample::select(vec![
                    Value::Null, json!(7), json!({}), json!({ "priority": 0 }), json!({ "priority": -1 }),
                    json!({ "priority": u64::MAX, "description": "portcullis" }), json!({ "description": [] }),
                    json!({ "description": format!("portcullis{MADE}x"), "if": { "or": 3 } }),
                    json!({ "description": format!("portcullis{MADE}"), "priority": 4 }),
                ]),
                0..12,
            ),
            count in 0u32..200,
            before in 0usize..200,
            rules_max in 1usize..4,
        ) {
            let ruleset = Ruleset::of(json!({ "version": 1, "rules": rules })).unwrap();
            let mut kept = ranked(count);
            kept.iter_mut().take(before).for_each(|one| one.is_before = true);
            let fitted = ruleset.fit(MARK, &kept, rules_max);
            prop_assert!(fitted.rules <= rules_max);
            let theirs = |value: &Value| -> Vec<Value> {
                let rules = value["rules"].as_array().cloned().unwrap_or_default();
                rules.into_iter().filter(|rule| !is_ours(rule, MARK)).collect()
            };
            prop_assert_eq!(theirs(&fitted.value), theirs(&ruleset.0));
            prop_assert_eq!(fitted.nets.len(), count as usize);
        }
    }
}
