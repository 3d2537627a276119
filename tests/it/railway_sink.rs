//! The sink `railway` against a stand-in for Railway's API: its queries, headers, answers, limits and
//! diagnostics are those of its public schema and documentation. The real one needs an account.

use crate::double::{Answer, Double, Request};
use crate::remotes::{NOON, action, at, decision, done, instant, later, mistakes, parse, refused};
use crate::support::{portcullis, stderr, stdout};
use portcullis::action::{Action, Op};
use portcullis::railway::Token;
use portcullis::sink::SinkConfig;
use portcullis::sink::remote::{Progress, Remote, Trouble};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const TOKEN: &str = "a-token-of-an-account";
const PROJECT: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f01";
const PRODUCTION: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f02";
const WEB: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f03";
const API: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f04";
/// A rule of the owner with keys that nobody here knows.
const OWNERS: &str = r#"{"description":"office","enabled":true,"id":"rul_owner","if":{"attr":"http.path","op":"matches","value":"/admin*"},"newer":{"a":[1.5,null,"ü"]},"priority":10,"then":{"action":"allow"}}"#;

/// What Railway has of a service.
#[derive(Clone, Default)]
struct Edge {
    rules: Value,
    until: Option<i64>,
    has_domain: bool,
}

#[derive(Clone, Default)]
struct World {
    edges: Arc<Mutex<BTreeMap<String, Edge>>>,
    /// Its time, seconds after noon.
    clock: Arc<Mutex<i64>>,
    /// Rules that the plan allows.
    plan: Arc<Mutex<Option<usize>>>,
    instead: Arc<Mutex<Option<Answer>>>,
    /// What validation finds wrong with any rules.
    wrong: Arc<Mutex<Option<String>>>,
    /// Rules that the owner saves while ours are looked at.
    meddled: Arc<Mutex<Option<Value>>>,
    /// What switching the mode is answered.
    stuck: Arc<Mutex<Option<Answer>>>,
    /// A service that cannot be found, so many times.
    gone: Arc<Mutex<Option<(&'static str, usize)>>>,
    ids: Arc<Mutex<u32>>,
}

impl World {
    fn new() -> Self {
        let world = Self::default();
        for id in [WEB, API] {
            let edge = Edge { has_domain: true, ..Edge::default() };
            world.edges.lock().unwrap().insert(id.to_owned(), edge);
        }
        world
    }

    fn change<T>(&self, service: &str, change: impl FnOnce(&mut Edge) -> T) -> T {
        change(self.edges.lock().unwrap().get_mut(service).unwrap())
    }

    fn rules(&self, service: &str) -> Vec<Value> {
        let rules = self.change(service, |edge| edge.rules.clone());
        rules["rules"].as_array().cloned().unwrap_or_default()
    }

    fn ours(&self, service: &str) -> Vec<Value> {
        let is_ours = |rule: &Value| {
            rule["description"].as_str().is_some_and(|text| text.starts_with("portcullis"))
        };
        self.rules(service).into_iter().filter(is_ours).collect()
    }

    /// Whom our rules keep out.
    fn kept_out(&self, service: &str) -> BTreeSet<String> {
        let list = |list: &Value| list["value"].as_array().unwrap().clone();
        let of = |rule: &Value| match rule["if"]["or"].as_array() {
            Some(lists) => lists.iter().flat_map(list).collect::<Vec<_>>(),
            None => list(&rule["if"]),
        };
        let values = self.ours(service).iter().flat_map(of).collect::<Vec<_>>();
        values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    }

    /// Seconds that Under Attack Mode goes on after noon.
    fn mode(&self, service: &str) -> Option<i64> {
        self.change(service, |edge| edge.until.map(|ends| if ends == 0 { 0 } else { ends - NOON }))
    }

    fn answer(&self, request: &Request) -> Answer {
        if let Some(answer) = self.instead.lock().unwrap().clone() {
            return answer;
        }
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/graphql/v2"));
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return failed("Not Authorized");
        }
        let asked = request.json();
        let (query, variables) = (asked["query"].as_str().unwrap(), &asked["variables"]);
        let input = &variables["input"];
        let of = if input.is_null() { variables } else { input };
        if query.contains("project(id: $id)") {
            let node = |id: &str, name: &str| json!({ "node": { "id": id, "name": name } });
            return data(&json!({ "project": {
                "environments": { "edges": [node("other", "staging"), node(PRODUCTION, "production")] },
                "services": { "edges": [node(WEB, "web"), node(API, "api")] },
            } }));
        }
        assert_eq!(of["environmentId"], PRODUCTION);
        let service = of["serviceId"].as_str().unwrap();
        if let Some((gone, times)) = self.gone.lock().unwrap().as_mut()
            && *gone == service
            && *times > 0
        {
            *times -= 1;
            return failed("Service instance not found");
        }
        if query.contains("serviceInstance(") {
            let edge = self.change(service, |edge| edge.clone());
            let domains = if edge.has_domain { json!([{ "id": "d" }]) } else { json!([]) };
            return data(&json!({ "serviceInstance": {
                "edgeConfig": { "edgeRules": edge.rules, "underAttackModeUntil": edge.until },
                "domains": { "serviceDomains": [], "customDomains": domains },
            } }));
        }
        if query.contains("validateServiceEdgeRules(") {
            if let Some(rules) = self.meddled.lock().unwrap().take() {
                self.change(service, |edge| edge.rules = rules);
            }
            let wrong = self.wrong_with(&input["edgeRules"]);
            return data(&json!({ "validateServiceEdgeRules": wrong }));
        }
        if query.contains("updateServiceEdgeRules(") {
            let mut rules = input["edgeRules"].clone();
            if !rules.is_null() && !self.wrong_with(&rules).is_empty() {
                return failed("Invalid edge rules");
            }
            let list = rules.get_mut("rules").and_then(Value::as_array_mut);
            for rule in list.into_iter().flatten() {
                if rule.get("id").is_none() {
                    *self.ids.lock().unwrap() += 1;
                    rule["id"] = json!(format!("rul_{}", self.ids.lock().unwrap()));
                }
            }
            self.change(service, |edge| edge.rules = rules.clone());
            return data(&json!({ "updateServiceEdgeRules": { "edgeRules": rules } }));
        }
        assert!(query.contains("setServiceUnderAttackMode("), "{query}");
        if let Some(answer) = self.stuck.lock().unwrap().clone() {
            return answer;
        }
        let until = input["enabled"].as_bool().unwrap().then(|| match &input["durationSeconds"] {
            Value::Null => 0,
            lasting => NOON + *self.clock.lock().unwrap() + lasting.as_i64().unwrap(),
        });
        self.change(service, |edge| edge.until = until);
        data(&json!({ "setServiceUnderAttackMode": { "underAttackModeUntil": until } }))
    }

    /// What the documentation says of limits.
    fn wrong_with(&self, rules: &Value) -> Vec<Value> {
        let mut wrong: Vec<String> = self.wrong.lock().unwrap().iter().cloned().collect();
        let list = rules["rules"].as_array().unwrap();
        if let Some(plan) = *self.plan.lock().unwrap()
            && list.len() > plan
        {
            wrong.push(format!("Your plan allows a maximum of {plan} edge rules"));
        }
        if rules["version"] != 1 || rules.to_string().len() > 64 << 10 {
            wrong.push("version or size".to_owned());
        }
        let places: BTreeSet<u64> = list.iter().map(|r| r["priority"].as_u64().unwrap()).collect();
        if places.len() < list.len() {
            wrong.push("priorities must be unique".to_owned());
        }
        for rule in list {
            let one = std::slice::from_ref(&rule["if"]);
            let conditions = rule["if"]["or"].as_array().map_or(one, Vec::as_slice);
            let lists = conditions.iter().filter_map(|list| list["value"].as_array());
            if conditions.len() > 32 || lists.clone().any(|list| list.len() > 64) {
                wrong.push("too long".to_owned());
            }
            if rule["description"].as_str().is_some_and(|text| text.len() > 256) {
                wrong.push("description".to_owned());
            }
        }
        let diagnostic = |why| json!({ "code": "INVALID", "message": why, "path": "rules" });
        wrong.into_iter().map(diagnostic).collect()
    }
}

fn data(data: &Value) -> Answer {
    Answer::new(200).json(&json!({ "data": data }))
}

fn failed(why: &str) -> Answer {
    Answer::new(200).json(&json!({ "errors": [{ "message": why }], "data": null }))
}

struct Setting {
    world: World,
    double: Double,
    more: String,
    sink: Box<dyn Remote>,
}

/// The sink for the service `web`, with more options.
fn setting(more: &str) -> Setting {
    let world = World::new();
    let answers = world.clone();
    let double = Double::new(move |request: &Request| answers.answer(request));
    let sink = sink(&double, more, TOKEN).unwrap();
    Setting { world, double, more: more.to_owned(), sink }
}

fn sink(double: &Double, more: &str, token: &str) -> Result<Box<dyn Remote>, String> {
    let services = if more.contains("services:") { "" } else { "services: [WEB], " };
    let environment = if more.contains("environment:") { "" } else { "environment: ENV, " };
    let text = format!(
        "railway: {{ {environment}{services}endpoint: '{}', {more} }}",
        double.url("/graphql/v2")
    );
    let text = text.replace("WEB", WEB).replace("API", API).replace("ENV", PRODUCTION);
    let SinkConfig::Railway(options) = parse(&text).unwrap() else { panic!("{text}") };
    options.open_with(Token::Account(token.to_owned()))
}

impl Setting {
    /// Another process, which remembers nothing.
    fn restart(&mut self) {
        self.sink = sink(&self.double, &self.more, TOKEN).unwrap();
    }

    fn done(&mut self, actions: &[Action], second: i64) {
        *self.world.clock.lock().unwrap() = second;
        done(&mut self.sink, actions, second);
    }

    fn reconcile(&mut self, active: &[&Action], second: i64) -> Option<String> {
        *self.world.clock.lock().unwrap() = second;
        let active: Vec<_> = active.iter().map(|start| decision(start)).collect();
        self.sink.reconcile(&active, at(second)).unwrap()
    }

    /// It does not take them now, and why.
    fn refused(&mut self, actions: &[Action], second: i64) -> String {
        match self.sink.deliver(actions, at(second)) {
            Progress { done: 0, trouble: Some(Trouble::Refused { why }) } => why,
            other => panic!("{other:?}"),
        }
    }

    /// What was called since it was asked last, without reading.
    fn calls(&self) -> Vec<&'static str> {
        let calls = self.double.requests();
        self.double.forget();
        let names = ["project(", "validateService", "updateService", "setServiceUnderAttackMode"];
        let name = |asked: &Request| {
            let query = asked.json()["query"].as_str().unwrap().to_owned();
            names.into_iter().find(|name| query.contains(name))
        };
        calls.iter().filter_map(name).collect()
    }
}

fn block(id: &str, ip: &str, until: i64) -> Action {
    let kind = if ip.contains('/') { "range" } else { "ip" };
    action(&json!({
        "id": id, "decision": id, "target": { "kind": kind, "value": ip }, "until": instant(until),
    }))
}

fn attack(id: &str, until: i64) -> Action {
    action(&json!({
        "id": id, "decision": id, "action": "under_attack", "target": { "kind": "global" },
        "until": instant(until),
    }))
}

fn extended(start: &Action, until: i64) -> Action {
    Action { id: "e".to_owned(), op: Op::Extend, until: Some(instant(until)), ..start.clone() }
}

fn ended(start: &Action, second: i64) -> Action {
    let time = instant(second);
    Action { id: "f".to_owned(), op: Op::End, until: None, time, ..start.clone() }
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Many blocks; the later in the list, the longer they last.
fn many(count: usize) -> Vec<Action> {
    let one = |n: usize| {
        let ip = format!("198.51.{}.{}", n / 250, n % 250);
        block(&format!("{n:016x}"), &ip, 3600 + i64::try_from(n).unwrap())
    };
    (0..count).map(one).collect()
}

/// What is logged while `act` goes on.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

// ------------------------------------------------------------------------------ edge rules --

#[test]
fn a_block_is_a_rule_beside_the_owners_and_goes_with_its_end() {
    let mut here = setting("");
    let owners: Value = serde_json::from_str(OWNERS).unwrap();
    let before = json!({ "version": 1, "rules": [owners], "newer": true });
    here.world.change(WEB, |edge| edge.rules = before.clone());
    let (one, two) = (block("a1", "203.0.113.7", 3600), block("a2", "198.51.100.0/24", 7200));
    here.done(&[one.clone(), two.clone()], 0);
    let [rule] = &here.world.ours(WEB)[..] else { panic!("{:?}", here.world.rules(WEB)) };
    let expected = json!({
        "id": "rul_1",
        "description": format!(
            "portcullis: made by Portcullis, which changes it; the last in it ends {}", instant(7200)
        ),
        "priority": 0,
        "enabled": true,
        "if": { "attr": "ipv4.src", "op": "in", "value": ["198.51.100.0/24", "203.0.113.7"] },
        "then": { "action": "block", "params": { "status": 403 } },
    });
    assert_eq!(*rule, expected);
    // The owner's rule as it was, byte for byte, and what stands beside the rules.
    let sent = here.double.requests().pop().unwrap().text();
    assert!(sent.contains(OWNERS) && sent.contains(r#""newer":true"#), "{sent}");
    assert_eq!(here.calls(), ["validateService", "updateService"]);

    here.done(&[ended(&one, 10)], 10);
    assert_eq!(here.world.kept_out(WEB), set(&["198.51.100.0/24"]));
    assert_eq!(here.world.ours(WEB)[0]["id"], "rul_1");
    here.done(&[ended(&two, 20)], 20);
    assert_eq!(here.world.change(WEB, |edge| edge.rules.clone()), before);
    // Where nothing was, nothing is left.
    here.world.change(WEB, |edge| edge.rules = Value::Null);
    here.done(&[block("a3", "203.0.113.7", 3600)], 30);
    here.done(&[ended(&block("a3", "203.0.113.7", 3600), 40)], 40);
    assert_eq!(here.world.change(WEB, |edge| edge.rules.clone()), Value::Null);
}

#[test]
fn a_burst_is_one_change_and_what_is_there_is_none() {
    let mut here = setting("");
    let blocks = many(40);
    here.done(&blocks[..1], 0);
    assert_eq!(here.calls(), ["validateService", "updateService"]);
    for second in 1..5 {
        let progress = here.sink.deliver(&blocks[1..40], at(second));
        let wait = Duration::from_secs(u64::try_from(5 - second).unwrap());
        assert_eq!(progress, Progress::until(0, Trouble::Paced { wait }));
    }
    assert!(here.calls().is_empty());
    here.done(&blocks[1..40], 5);
    assert_eq!(here.calls(), ["validateService", "updateService"]);
    assert_eq!(here.world.kept_out(WEB).len(), 40);
    // The same again, and an extension of what is there.
    here.done(&blocks, 6);
    here.done(&[extended(&blocks[3], 9000)], 7);
    assert!(here.calls().is_empty());
    // A clock that was set back does not hold it up.
    here.done(&[ended(&blocks[0], 8)], -1000);
    assert_eq!(here.world.kept_out(WEB).len(), 39);
}

#[test]
fn those_that_last_longest_have_the_room_and_the_others_move_up() {
    let mut here = setting("max_rules: 1");
    let blocks = many(2100);
    let log = logged(|| here.done(&blocks, 0));
    let of = |blocks: &[Action]| -> BTreeSet<String> {
        blocks.iter().map(|block| block.target.text().to_owned()).collect()
    };
    assert_eq!(here.world.kept_out(WEB), of(&blocks[52..]));
    assert_eq!(here.world.ours(WEB).len(), 1);
    let said = "52 of 2100 addresses are not kept out: there is room for 2048 in 1 rules of ours";
    assert!(log.contains(said), "{log}");
    here.calls();
    // The same number is not said again, and one without room changes nothing.
    let log = logged(|| here.done(&blocks[..3], 10));
    assert_eq!((log.as_str(), here.calls().len()), ("", 0));
    // One ends, and the next moves up; one lasts longer, and takes the place of another.
    let log = logged(|| here.done(&[ended(&blocks[2000], 20)], 20));
    assert!(log.contains("51 of 2099 addresses"), "{log}");
    let mut expected = of(&blocks[51..]);
    expected.remove(blocks[2000].target.text());
    assert_eq!(here.world.kept_out(WEB), expected);
    here.done(&[extended(&blocks[0], 90_000)], 30);
    expected.remove(blocks[51].target.text());
    expected.insert(blocks[0].target.text().to_owned());
    assert_eq!(here.world.kept_out(WEB), expected);
}

#[test]
fn ipv6_is_said_once_and_holds_nothing_up() {
    let mut here = setting("");
    let v6 = |n: u32| block(&format!("b{n}"), &format!("2001:db8:0:{n}::/64"), 3600);
    let log = logged(|| here.done(&[v6(1), block("a1", "203.0.113.7", 3600), v6(2)], 0));
    let more = logged(|| here.done(&[v6(3)], 10));
    assert_eq!(log.matches("edge rules know only IPv4").count(), 1, "{log}");
    assert!(log.contains("2001:db8:0:1::/64") && more.is_empty(), "{more}");
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.7"]));
    assert!(here.sink.would(&v6(1)).contains("know only IPv4"));
}

#[test]
fn what_validation_refuses_changes_nothing_and_is_tried_again_by_the_comparison() {
    let mut here = setting("");
    let owners: Value = serde_json::from_str(OWNERS).unwrap();
    let before = json!({ "version": 1, "rules": [owners] });
    here.world.change(WEB, |edge| edge.rules = before.clone());
    *here.world.wrong.lock().unwrap() = Some("depth\u{1b}[2J".to_owned());
    let blocks = many(2);
    let why = refused(&mut here.sink, &blocks[0], 0);
    assert!(why.contains("depth") && why.contains("nothing was changed there"), "{why}");
    assert!(why.contains("at rules (INVALID)") && !why.contains('\u{1b}'), "{why}");
    assert_eq!(here.calls(), ["validateService"]);
    // The same rules are not shown again for the next line.
    refused(&mut here.sink, &blocks[0], 1);
    assert!(here.calls().is_empty());
    assert_eq!(here.world.change(WEB, |edge| edge.rules.clone()), before);
    let told = here.reconcile(&[&blocks[0]], 10).unwrap();
    assert!(told.contains("depth"), "{told}");
    *here.world.wrong.lock().unwrap() = None;
    let told = here.reconcile(&[&blocks[0]], 610).unwrap();
    assert!(told.contains("1 addresses added, 0 removed"), "{told}");
    // Rules of a version that nobody here knows.
    let newer = json!({ "version": 2, "rules": [] });
    here.world.change(WEB, |edge| edge.rules = newer.clone());
    let why = refused(&mut here.sink, &blocks[1], 620);
    assert!(why.contains("are of version 2"), "{why}");
    assert_eq!(here.world.change(WEB, |edge| edge.rules.clone()), newer);
}

#[test]
fn what_the_owner_changes_meanwhile_stays() {
    let mut here = setting("");
    let owners: Value = serde_json::from_str(OWNERS).unwrap();
    let theirs = json!({ "version": 1, "rules": [owners] });
    *here.world.meddled.lock().unwrap() = Some(theirs.clone());
    here.done(&[block("a1", "203.0.113.7", 3600)], 0);
    assert_eq!(here.world.rules(WEB).len(), 2);
    assert_eq!(here.world.rules(WEB)[0], owners);
    assert_eq!(here.calls(), ["validateService", "validateService", "updateService"]);
    // Whoever takes ours away has it back by the next comparison, and what was changed in it too.
    let start = block("a1", "203.0.113.7", 3600);
    here.world.change(WEB, |edge| edge.rules = theirs.clone());
    let told = here.reconcile(&[&start], 100).unwrap();
    assert!(told.contains("1 addresses added"), "{told}");
    here.world.change(WEB, |edge| edge.rules["rules"][1]["enabled"] = json!(false));
    let told = here.reconcile(&[&start], 700).unwrap();
    assert!(told.contains("that were changed made anew"), "{told}");
    assert_eq!(here.world.ours(WEB)[0]["enabled"], true);
    // Its place among the rules is the owner's to choose.
    here.world.change(WEB, |edge| edge.rules["rules"][1]["priority"] = json!(77));
    assert_eq!(here.reconcile(&[&start], 1300), None);
    let log = logged(|| here.done(&[block("a2", "203.0.113.8", 3600)], 1400));
    assert_eq!(here.world.ours(WEB)[0]["priority"], 77);
    assert!(log.contains("your edge rule of priority 10 comes before one of ours"), "{log}");
}

#[test]
fn the_plans_limit_lowers_the_rules_of_this_run() {
    let mut here = setting("");
    let owners: Value = serde_json::from_str(OWNERS).unwrap();
    here.world.change(WEB, |edge| edge.rules = json!({ "version": 1, "rules": [owners] }));
    *here.world.plan.lock().unwrap() = Some(2);
    let blocks = many(2060);
    let log = logged(|| here.done(&blocks, 0));
    assert!(log.contains("takes no more than 1 rules of ours"), "{log}");
    assert!(log.contains("Your plan allows a maximum of 2 edge rules"), "{log}");
    assert!(log.contains("12 of 2060 addresses are not kept out"), "{log}");
    assert_eq!((here.world.rules(WEB).len(), here.world.kept_out(WEB).len()), (2, 2048));
    // It is asked again by each comparison, and not said again, until the plan has grown.
    let all: Vec<&Action> = blocks.iter().collect();
    let log = logged(|| assert_eq!(here.reconcile(&all, 600), None));
    assert_eq!(log, "");
    *here.world.plan.lock().unwrap() = None;
    let told = here.reconcile(&all, 1200).unwrap();
    assert!(told.contains("12 addresses added"), "{told}");
    assert_eq!(here.world.kept_out(WEB).len(), 2060);
    // One that has shrunk lets nobody in: what stands there stays, and more is refused.
    *here.world.plan.lock().unwrap() = Some(2);
    let why = here.refused(&[block("c1", "203.0.113.7", 9000)], 1300);
    assert!(why.contains("Your plan allows a maximum of 2 edge rules"), "{why}");
    assert_eq!(here.world.kept_out(WEB).len(), 2060);
}

#[test]
fn a_plan_without_rules_refuses_blocks_until_it_has_some() {
    let blocks = many(2060);
    let refusals = [
        "Your plan allows a maximum of 0 edge rules",
        "Edge rules are not available on your plan. Please upgrade",
    ];
    for (why, count) in refusals.into_iter().flat_map(|why| [(why, 1), (why, 2060)]) {
        let mut here = setting("");
        *here.world.wrong.lock().unwrap() = Some(why.to_owned());
        let log = logged(|| assert!(here.refused(&blocks[..count], 0).contains(why)));
        assert!(log.is_empty() && here.world.rules(WEB).is_empty(), "{log}");
        let all: Vec<&Action> = blocks[..count].iter().collect();
        let told = here.reconcile(&all, 600).unwrap();
        assert!(told.contains(why), "{told}");
        *here.world.wrong.lock().unwrap() = None;
        let told = here.reconcile(&all, 1200).unwrap();
        assert!(told.contains(&format!("{count} addresses added")), "{told}");
    }
}

#[test]
fn what_speaks_of_rates_or_of_one_rule_is_no_limit_of_the_plan() {
    let blocks = many(2060);
    for why in [
        "Rate limit of your plan exceeded: a maximum of 1000 requests per hour",
        "You are being ratelimited by the limit of edge rules of your plan",
        "rules[0].if: longer than the limit of edge rules",
        "rules.3.if.value: longer than the maximum of edge rules",
        "A pattern may have a maximum of 100 bytes",
    ] {
        let mut here = setting("");
        here.done(&blocks[2050..], 0);
        here.calls();
        *here.world.wrong.lock().unwrap() = Some(why.to_owned());
        assert!(here.refused(&blocks, 10).contains(why));
        assert_eq!(here.calls(), ["validateService"], "{why}");
        assert_eq!(here.world.kept_out(WEB).len(), 10);
        // All rules are there to be used as soon as nothing is wrong.
        *here.world.wrong.lock().unwrap() = None;
        here.done(&[blocks.clone(), vec![block("c1", "203.0.113.7", 9000)]].concat(), 20);
        assert_eq!(here.world.kept_out(WEB).len(), 2061, "{why}");
    }
}

#[test]
fn many_changes_within_an_hour_slow_it_down_but_not_the_mode() {
    let mut here = setting("");
    let blocks = many(30);
    let second = |n: usize| i64::try_from(n).unwrap() * 5;
    for (n, block) in blocks[..20].iter().enumerate() {
        here.done(std::slice::from_ref(block), second(n));
    }
    here.calls();
    // The last was at 95. It is asked again after 5 s, since the mode may be wanted meanwhile.
    for (second, wait) in [(100, 5), (140, 5), (154, 1)] {
        let progress = here.sink.deliver(&blocks[20..21], at(second));
        let wait = Duration::from_secs(wait);
        assert_eq!(progress, Progress::until(0, Trouble::Paced { wait }));
    }
    assert!(here.calls().is_empty());
    here.done(&blocks[20..21], 155);
    let both = [blocks[21].clone(), attack("a1", 1800)];
    let progress = here.sink.deliver(&both, at(156));
    let wait = Duration::from_secs(5);
    assert_eq!(progress, Progress::until(0, Trouble::Paced { wait }));
    assert!(here.world.mode(WEB).is_some());
    here.done(&both, 215);
    // An hour later all is as it was.
    here.done(&[block("c1", "203.0.113.8", 9000)], 3696);
    here.done(&[block("c2", "203.0.113.9", 9000)], 3701);
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.8", "203.0.113.9"]));
}

#[test]
fn errors_are_told_apart_and_never_hold_the_token() {
    let mut here = setting("");
    let start = block("a1", "203.0.113.7", 3600);
    let mut second = 0;
    let mut told = |here: &mut Setting, answer: Option<Answer>| {
        *here.world.instead.lock().unwrap() = answer;
        second += 10;
        later(&mut here.sink, &start, second)
    };
    let limited = Answer::new(429).header("retry-after", "70");
    assert_eq!(told(&mut here, Some(limited)).1, Some(Duration::from_secs(70)));
    for status in [500, 503] {
        told(&mut here, Some(Answer::new(status)));
    }
    told(&mut here, Some(Answer::hang_up()));
    told(&mut here, Some(Answer::new(200).body("<html>")));
    told(&mut here, Some(data(&json!({}))));
    let echo = failed(&format!("Not Authorized: {TOKEN}"));
    let (why, _) = told(&mut here, Some(echo));
    assert!(why.contains("RAILWAY_API_TOKEN") && why.contains("(the token)"), "{why}");
    assert!(!why.contains(TOKEN) && !format!("{:?}", here.sink).contains(TOKEN), "{why}");
    here.sink = sink(&here.double, "", "another-token").unwrap();
    let (why, _) = told(&mut here, None);
    assert!(why.contains("does not take the token") && !why.contains("another-token"), "{why}");
    here.restart();
    *here.world.instead.lock().unwrap() = Some(failed("Service instance not found"));
    let why = refused(&mut here.sink, &start, 500);
    assert!(why.contains("Service instance not found"), "{why}");
    // Nothing was lost meanwhile.
    *here.world.instead.lock().unwrap() = None;
    here.done(&[start], 600);
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.7"]));
}

#[test]
fn a_restart_finds_what_is_there_and_takes_out_what_is_over() {
    let mut here = setting("");
    let blocks = many(3);
    here.done(&blocks, 0);
    here.calls();
    here.restart();
    assert_eq!(here.reconcile(&[&blocks[0], &blocks[1], &blocks[2]], 10), None);
    here.done(&blocks, 11);
    assert!(here.calls().is_empty());
    // While it was down one has ended, and another began.
    here.restart();
    let new = block("c1", "203.0.113.9", 3600);
    let told = here.reconcile(&[&blocks[0], &blocks[1], &new], 20).unwrap();
    assert!(told.contains("1 addresses added, 1 removed"), "{told}");
    assert_eq!(here.world.kept_out(WEB), set(&["198.51.0.0", "198.51.0.1", "203.0.113.9"]));
    // No line says the ends: the comparison comes when they are due.
    assert!(here.sink.reconcile_every().unwrap() <= Duration::from_secs(600));
    here.reconcile(&[&blocks[0], &blocks[1], &new], 3400);
    assert_eq!(here.sink.reconcile_every(), Some(Duration::from_secs(260)));
    here.reconcile(&[&blocks[0], &blocks[1], &new], 3660);
    assert!(here.world.rules(WEB).is_empty());
}

#[test]
fn without_a_state_directory_what_is_there_stays_until_its_rule_says_that_it_ends() {
    let mut here = setting("");
    let blocks = many(2);
    here.done(&blocks, 0);
    here.restart();
    here.sink.knows_only_its_own();
    assert_eq!(here.reconcile(&[], 10), None);
    // A look does not count for the pace.
    here.done(&[block("c1", "203.0.113.9", 9000)], 11);
    assert_eq!(here.world.kept_out(WEB).len(), 3);
    // It can be lifted, and goes by itself.
    here.done(&[ended(&blocks[1], 30)], 30);
    assert_eq!(here.world.kept_out(WEB), set(&["198.51.0.0", "203.0.113.9"]));
    let new = block("c1", "203.0.113.9", 9000);
    here.reconcile(&[&new], 3602);
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.9"]));
    // With one, what is not active goes at once.
    here.restart();
    here.reconcile(&[], 3700);
    assert!(here.world.rules(WEB).is_empty());
}

#[test]
fn what_an_earlier_run_has_put_there_is_not_given_a_later_end_by_every_start() {
    let end = |rule: &Value| {
        let text = rule["description"].as_str().unwrap();
        text.rsplit_once("ends ").unwrap().1.to_owned()
    };
    for (max_rules, ends, left) in [
        (
            5,
            vec![instant(3601), instant(9000), instant(20_000)],
            vec!["203.0.113.8", "203.0.113.9"],
        ),
        // Only where one rule must hold all, the last end counts for all.
        (1, vec![instant(20_000)], vec!["198.51.0.0", "198.51.0.1", "203.0.113.8", "203.0.113.9"]),
    ] {
        let mut here = setting(&format!("max_rules: {max_rules}"));
        here.done(&many(2), 0);
        let before = here.world.ours(WEB)[0].clone();
        let (one, two) = (block("c1", "203.0.113.8", 9000), block("c2", "203.0.113.9", 20_000));
        for (start, second) in [(&one, 10), (&two, 30)] {
            here.restart();
            here.sink.knows_only_its_own();
            assert_eq!(here.reconcile(&[], second), None);
            here.done(std::slice::from_ref(start), second + 1);
        }
        let ours = here.world.ours(WEB);
        let mut said: Vec<String> = ours.iter().map(end).collect();
        said.sort();
        assert_eq!(said, ends, "{max_rules}");
        assert_eq!(ours.contains(&before), max_rules > 1);
        here.reconcile(&[&two], 3602);
        assert_eq!(here.world.kept_out(WEB), set(&left), "{max_rules}");
    }
}

#[test]
fn an_end_that_was_put_off_is_written_by_the_next_comparison() {
    let mut here = setting("");
    let start = block("a1", "203.0.113.7", 3600);
    here.done(std::slice::from_ref(&start), 0);
    here.calls();
    here.done(&[extended(&start, 9000)], 7);
    assert!(here.calls().is_empty());
    let longer = block("a1", "203.0.113.7", 9000);
    let told = here.reconcile(&[&longer], 600).unwrap();
    assert!(told.contains("0 addresses added, 0 removed, and a later end written"), "{told}");
    assert_eq!(here.reconcile(&[&longer], 1200), None);
    // A new start that remembers nothing keeps it out until then.
    here.restart();
    here.sink.knows_only_its_own();
    assert_eq!(here.reconcile(&[], 3700), None);
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.7"]));
    here.reconcile(&[], 9001);
    assert!(here.world.rules(WEB).is_empty());
}

#[test]
fn a_service_that_cannot_be_read_does_not_make_it_forget_the_others() {
    let mut here = setting("services: [WEB, API]");
    here.done(&many(2), 0);
    here.restart();
    here.sink.knows_only_its_own();
    *here.world.gone.lock().unwrap() = Some((WEB, usize::MAX));
    let told = here.reconcile(&[], 10).unwrap();
    assert!(told.contains("Service instance not found"), "{told}");
    let new = block("c1", "203.0.113.9", 9000);
    assert!(here.refused(std::slice::from_ref(&new), 20).contains("not found"));
    assert_eq!(here.world.kept_out(API), set(&["198.51.0.0", "198.51.0.1", "203.0.113.9"]));
    *here.world.gone.lock().unwrap() = None;
    let told = here.reconcile(&[&new], 620).unwrap();
    assert!(told.contains("1 addresses added, 0 removed"), "{told}");
    assert_eq!(here.world.kept_out(WEB), here.world.kept_out(API));
    // What could not be read is not forgotten, even if the next call is answered.
    let mut here = setting("");
    here.done(&many(2), 0);
    here.restart();
    here.sink.knows_only_its_own();
    *here.world.gone.lock().unwrap() = Some((WEB, 1));
    let told = here.reconcile(&[], 10).unwrap();
    assert!(told.contains("Service instance not found"), "{told}");
    assert_eq!(here.reconcile(&[], 20), None);
    assert_eq!(here.world.kept_out(WEB).len(), 2);
}

#[test]
fn blocks_do_not_wait_for_a_mode_that_cannot_be_switched() {
    let mut here = setting("");
    *here.world.stuck.lock().unwrap() = Some(Answer::new(503));
    let (start, flood) = (block("a1", "203.0.113.7", 3600), attack("a2", 1800));
    let active = [decision(&start), decision(&flood)];
    let log = logged(|| {
        let trouble = here.sink.reconcile(&active, at(0)).unwrap_err();
        assert!(matches!(trouble, Trouble::Later { .. }), "{trouble:?}");
    });
    assert!(log.contains("1 addresses added"), "{log}");
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.7"]));
    *here.world.stuck.lock().unwrap() = None;
    let told = here.reconcile(&[&start, &flood], 1).unwrap();
    assert!(told.contains("switched Under Attack Mode on") && here.world.mode(WEB).is_some());
}

#[test]
fn services_do_not_wait_for_each_other() {
    let mut here = setting("services: [WEB, API]");
    here.world.change(WEB, |edge| edge.has_domain = false);
    let why = refused(&mut here.sink, &block("a1", "203.0.113.7", 3600), 0);
    assert!(why.contains("has no public domain"), "{why}");
    assert_eq!(here.world.kept_out(API), set(&["203.0.113.7"]));
    assert!(here.world.rules(WEB).is_empty());
    here.world.change(WEB, |edge| edge.has_domain = true);
    here.done(&[block("a2", "203.0.113.8", 3600)], 10);
    assert_eq!(here.world.kept_out(WEB), here.world.kept_out(API));
    // Two gates before one service know each other's rules from their own.
    let mut other = sink(&here.double, "name: two", TOKEN).unwrap();
    done(&mut other, &[block("b1", "203.0.113.9", 3600)], 20);
    assert_eq!(here.world.ours(WEB).len(), 2);
    here.done(&[ended(&block("a2", "203.0.113.8", 3600), 30)], 30);
    assert_eq!(here.world.kept_out(WEB), set(&["203.0.113.7", "203.0.113.9"]));
}

// ----------------------------------------------------------------------- Under Attack Mode --

#[test]
fn the_mode_lasts_for_the_shortest_time_that_covers_the_decision_and_ends_with_it() {
    for (lasts, set) in [
        (60, 3600),
        (3600, 3600),
        (3700, 10_800),
        (10_800, 10_800),
        (20_000, 43_200),
        (50_000, 86_400),
        (200_000, 86_400),
    ] {
        let mut here = setting("");
        let start = attack("a1", lasts);
        here.done(std::slice::from_ref(&start), 0);
        assert_eq!(here.world.mode(WEB), Some(set), "{lasts}");
        here.done(std::slice::from_ref(&start), 1);
        assert_eq!(here.calls(), ["setServiceUnderAttackMode"]);
        here.done(&[ended(&start, 40)], 40);
        assert_eq!(here.world.mode(WEB), None, "{lasts}");
        here.done(&[ended(&start, 40)], 41);
        assert_eq!(here.calls(), ["setServiceUnderAttackMode"]);
    }
}

#[test]
fn an_extension_renews_only_what_would_end_before() {
    let mut here = setting("");
    let start = attack("a1", 1800);
    here.done(std::slice::from_ref(&start), 0);
    here.done(&[extended(&start, 3500)], 1700);
    assert_eq!((here.world.mode(WEB), here.calls().len()), (Some(3600), 1));
    here.done(&[extended(&start, 4800)], 3000);
    assert_eq!((here.world.mode(WEB), here.calls().len()), (Some(6600), 1));
    here.done(&[ended(&start, 4800)], 4800);
    assert_eq!(here.world.mode(WEB), None);
}

#[test]
fn a_decision_of_days_is_renewed_by_itself_and_a_missing_end_is_noticed() {
    let mut here = setting("");
    let start = attack("a1", 100_000);
    assert!(here.reconcile(&[&start], 0).unwrap().contains("switched Under Attack Mode on until"));
    assert_eq!(here.world.mode(WEB), Some(86_400));
    here.reconcile(&[&start], 82_700);
    assert_eq!(here.world.mode(WEB), Some(86_400));
    // It comes again an hour before the end.
    assert_eq!(here.sink.reconcile_every(), Some(Duration::from_secs(100)));
    here.reconcile(&[&start], 82_801);
    assert_eq!(here.world.mode(WEB), Some(82_801 + 43_200));
    let told = here.reconcile(&[&start], 100_001).unwrap();
    assert!(told.contains("switched Under Attack Mode off"), "{told}");
    assert_eq!(here.world.mode(WEB), None);
}

#[test]
fn a_mode_that_need_not_or_cannot_be_renewed_is_not_looked_at_all_the_time() {
    let often = Some(Duration::from_secs(600));
    // The owner has set it for longer while ours was on.
    let start = attack("a1", 100_000);
    for until in [0, NOON + 200_000] {
        let mut here = setting("");
        here.reconcile(&[&start], 0);
        here.world.change(WEB, |edge| edge.until = Some(until));
        here.reconcile(&[&start], 82_801);
        assert_eq!(here.sink.reconcile_every(), often);
        here.done(&[ended(&start, 82_900)], 82_900);
        assert_eq!(here.world.change(WEB, |edge| edge.until), Some(until));
    }
    // It is refused.
    let mut here = setting("");
    here.reconcile(&[&start], 0);
    *here.world.stuck.lock().unwrap() = Some(failed("No"));
    assert!(here.reconcile(&[&start], 82_801).unwrap().contains("Railway answers: No"));
    assert_eq!(here.sink.reconcile_every(), often);
    *here.world.stuck.lock().unwrap() = None;
    here.reconcile(&[&start], 83_401);
    assert_eq!(here.world.mode(WEB), Some(83_401 + 43_200));
    // It ends a little before the decision, which is as good as with it.
    let mut here = setting("");
    here.reconcile(&[&attack("a1", 3603)], 0);
    assert_eq!((here.world.mode(WEB), here.sink.reconcile_every()), (Some(3600), often));
    let mut here = setting("");
    here.reconcile(&[&attack("a1", 10_803)], 0);
    here.reconcile(&[&attack("a1", 10_803)], 7000);
    assert_eq!((here.world.mode(WEB), here.sink.reconcile_every()), (Some(10_800), often));
}

#[test]
fn what_the_owner_has_switched_stays_as_the_owner_wants_it() {
    let start = attack("a1", 1800);
    let begun = |until: Option<i64>| {
        let mut here = setting("");
        here.world.change(WEB, |edge| edge.until = until);
        here.done(std::slice::from_ref(&start), 0);
        here
    };
    // For ever, or for longer: never touched.
    for until in [0, NOON + 2000] {
        let mut here = begun(Some(until));
        here.done(&[ended(&start, 100)], 100);
        assert!(here.calls().is_empty());
        assert_eq!(here.world.change(WEB, |edge| edge.until), Some(until));
    }
    // For less: it is prolonged, and not switched off before its time.
    let mut here = begun(Some(NOON + 600));
    assert_eq!(here.world.mode(WEB), Some(3600));
    here.done(&[ended(&start, 100)], 100);
    assert_eq!(here.world.mode(WEB), Some(3600));
    let mut here = begun(Some(NOON + 600));
    here.done(&[ended(&start, 1800)], 1800);
    assert_eq!(here.world.mode(WEB), None);
    // What ended before is off.
    let here = begun(Some(NOON - 600));
    assert_eq!(here.world.mode(WEB), Some(3600));
    // Switched to for ever while ours was on.
    let mut here = begun(None);
    here.world.change(WEB, |edge| edge.until = Some(0));
    here.done(&[ended(&start, 1800)], 1800);
    assert_eq!(here.world.mode(WEB), Some(0));
    // Switched off in the middle: it stays off until this attack is over.
    let mut here = begun(None);
    here.world.change(WEB, |edge| edge.until = None);
    here.done(&[extended(&start, 3700)], 1900);
    here.done(&[extended(&start, 3800)], 2000);
    assert_eq!(here.world.mode(WEB), None);
    here.done(&[ended(&start, 3800)], 3800);
    here.done(&[attack("a2", 9000)], 4000);
    assert_eq!(here.world.mode(WEB), Some(4000 + 10_800));
    // Also what was on before; what has run out by itself is not switched off.
    for until in [0, NOON + 9000] {
        let mut here = begun(Some(until));
        here.world.change(WEB, |edge| edge.until = None);
        here.reconcile(&[&start], 600);
        assert_eq!(here.world.mode(WEB), None);
        here.done(&[ended(&start, 1800)], 1800);
        here.done(&[attack("a2", 9000)], 2000);
        assert_eq!(here.world.mode(WEB), Some(2000 + 10_800));
    }
    let mut here = begun(Some(NOON + 1900));
    here.done(&[extended(&start, 3500)], 1950);
    assert_eq!(here.world.mode(WEB), Some(1950 + 3600));
}

#[test]
fn after_a_restart_what_was_switched_on_for_this_attack_is_ours() {
    let start = attack("a1", 1800);
    for (until, ours) in [(3610, true), (3500, false), (0, false), (43_000, false)] {
        let mut here = setting("");
        let ends = if until == 0 { 0 } else { NOON + until };
        here.world.change(WEB, |edge| edge.until = Some(ends));
        here.reconcile(&[&start], 100);
        here.done(&[ended(&start, 200)], 200);
        let left = here.world.change(WEB, |edge| edge.until);
        assert_eq!(left, (!ours).then_some(ends), "{until}");
    }
    // Without the decision nothing is known to be ours; it ends by itself.
    let mut here = setting("");
    here.done(std::slice::from_ref(&start), 0);
    here.restart();
    here.reconcile(&[], 10);
    here.done(&[ended(&start, 20)], 20);
    assert_eq!(here.world.mode(WEB), Some(3600));
}

#[test]
fn a_service_without_a_domain_is_refused_and_nothing_else_waits() {
    let mut here = setting("");
    here.world.change(WEB, |edge| edge.has_domain = false);
    let why = refused(&mut here.sink, &attack("a1", 1800), 0);
    assert!(why.contains("has no public domain") && why.contains("railway domain"), "{why}");
    assert!(here.calls().is_empty());
    // The mode does not wait for the pace of blocks.
    let mut here = setting("");
    here.done(&[block("a1", "203.0.113.7", 3600)], 0);
    let both = [block("a2", "203.0.113.8", 3600), attack("a3", 1800)];
    let progress = here.sink.deliver(&both, at(1));
    let wait = Duration::from_secs(4);
    assert_eq!(progress, Progress::until(0, Trouble::Paced { wait }));
    assert_eq!(here.world.mode(WEB), Some(3600));
    here.done(&both, 5);
    // Switched off in the settings.
    let here = setting("under_attack: false");
    assert!(!here.sink.wants(&attack("a1", 1800)));
    let shadow = Action { mode: "shadow", ..block("a1", "203.0.113.7", 3600) };
    assert!(!here.sink.wants(&shadow) && here.sink.acts());
}

// ------------------------------------------------------------- names, settings, the program --

#[test]
fn names_are_found_in_the_project_and_a_wrong_one_is_told_with_the_nearest() {
    let named = |services: &str| {
        format!("project: {PROJECT}, environment: production, services: [{services}]")
    };
    let mut here = setting(&named("web, api, web"));
    here.done(&[block("a1", "203.0.113.7", 3600)], 0);
    assert_eq!(here.calls().iter().filter(|name| **name == "project(").count(), 1);
    assert_eq!(here.world.kept_out(WEB), here.world.kept_out(API));
    let mut wrong = sink(&here.double, &named("wep"), TOKEN).unwrap();
    let (why, _) = later(&mut wrong, &block("a1", "203.0.113.7", 3600), 0);
    assert!(why.contains("no service `wep`; did you mean `web`?"), "{why}");
    let more = format!("project: {PROJECT}, environment: producton");
    let mut wrong = sink(&here.double, &more, TOKEN).unwrap();
    let (why, _) = later(&mut wrong, &block("a1", "203.0.113.7", 3600), 0);
    assert!(why.contains("no environment `producton`; did you mean `production`?"), "{why}");
    // Without a project there is nowhere to look.
    let why = sink(&here.double, "services: [web]", TOKEN).unwrap_err();
    assert!(why.contains("needs `project`") && why.contains("`web`"), "{why}");
}

#[test]
fn a_test_changes_nothing_and_clean_takes_away_what_is_ours() {
    let mut here = setting("");
    let owners: Value = serde_json::from_str(OWNERS).unwrap();
    let before = json!({ "version": 1, "rules": [owners] });
    here.world.change(WEB, |edge| edge.rules = before.clone());
    let told = here.sink.test(at(0)).unwrap();
    assert!(told.contains("takes RAILWAY_API_TOKEN"), "{told}");
    assert!(told.contains("Railway would take a rule; 0 of ours are there"), "{told}");
    assert!(told.contains("Under Attack Mode is off"), "{told}");
    assert_eq!(here.calls(), ["validateService"]);
    *here.world.plan.lock().unwrap() = Some(1);
    let told = here.sink.test(at(0)).unwrap_err();
    assert!(told.contains("Your plan allows a maximum of 1"), "{told}");
    *here.world.plan.lock().unwrap() = None;
    let told = sink(&here.double, "", "wrong").unwrap().test(at(0)).unwrap_err();
    assert!(told.contains("does not take the token"), "{told}");

    let mut all = many(3);
    all.push(attack("a1", 1800));
    here.done(&all, 0);
    let told = here.sink.clean().unwrap();
    assert!(told.contains("0 addresses added, 3 removed; Under Attack Mode"), "{told}");
    assert_eq!(here.world.change(WEB, |edge| edge.rules.clone()), before);
    assert_eq!(here.world.mode(WEB), None);
    // Another process does not know whose the mode is.
    here.world.change(WEB, |edge| edge.until = Some(NOON + 100));
    here.restart();
    let told = here.sink.clean().unwrap();
    assert!(told.contains("no rule of ours; Under Attack Mode is on until 2026-"), "{told}");
    assert!(told.contains("was left so") && here.world.mode(WEB) == Some(100), "{told}");
}

#[test]
fn options_are_checked() {
    let told = mistakes("railway: {}");
    assert!(told.contains("needs `services`"), "{told}");
    let told = mistakes("railway: { services: [web], project: home, max_rules: 0, servces: [] }");
    assert!(told.contains("`home` is no id of a project"), "{told}");
    assert!(told.contains("`railway.max_rules` must lie between 1 and 100"), "{told}");
    assert!(told.contains("did you mean `services`?"), "{told}");
    let told = mistakes("railway: { services: [web], endpoint: 'http://192.0.2.1/graphql/v2' }");
    assert!(told.contains("is plain HTTP to another machine"), "{told}");
    for here in
        ["http://localhost:1/x", "http://[::1]/x", "http://127.0.0.1:1/x", "https://x.org/y"]
    {
        assert_eq!(mistakes(&format!("railway: {{ services: [web], endpoint: '{here}' }}")), "");
    }
    let would = |action: &Action| {
        let more = format!("project: {PROJECT}, services: [web, api]");
        sink(&Double::new(|_| Answer::new(500)), &more, TOKEN).unwrap().would(action)
    };
    let start = block("a1", "203.0.113.7", 60);
    assert_eq!(
        would(&start),
        "put 203.0.113.7 into the edge rules of web, api until 2026-11-24T12:01:00.000000Z"
    );
    assert_eq!(would(&ended(&start, 1)), "take 203.0.113.7 out of the edge rules of web, api");
    let start = attack("a1", 60);
    assert_eq!(
        would(&start),
        "switch Under Attack Mode of web, api on until 2026-11-24T12:01:00.000000Z"
    );
    assert_eq!(would(&ended(&start, 1)), "switch Under Attack Mode of web, api off");
}

/// The program with the sink: failed logins and a flood come in on standard input.
fn program(world: &World, mode: &str) -> (String, String) {
    let answers = world.clone();
    let double = Double::new(move |request: &Request| answers.answer(request));
    let folder = tempfile::tempdir().unwrap();
    let rule = "pack: own\nrules:\n  - { id: flood, title: t, on: RATE_LIMIT_VIOLATION, per: global, \
                when: count > 5 within 1m, then: under_attack for 30m }\n";
    std::fs::write(folder.path().join("own.yaml"), rule).unwrap();
    let config = format!(
        "patterns: [velro, own.yaml]\n{mode}sinks:\n  - stdout: {{ output: json }}\n  - railway: {{ \
         environment: production, services: [web], endpoint: '{}' }}\n",
        double.url("/graphql/v2")
    );
    std::fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    *world.clock.lock().unwrap() = i64::try_from(now.as_secs()).unwrap() - NOON;
    let time = portcullis::decode::time::format(i64::try_from(now.as_micros()).unwrap());
    let line = |text: &str| {
        format!(r#"{{"timestamp":"{time}","logger":"security","message":"{text}"}}"#) + "\n"
    };
    let login = line("FAILED_LOGIN: email=a@example.org, ip=203.0.113.7, reason=bad");
    let flood = line("RATE_LIMIT_VIOLATION: ip=198.51.100.1, endpoint=/");
    let mut child = portcullis(folder.path())
        .args(["run", "--summary", "none"])
        .env("RAILWAY_API_TOKEN", TOKEN)
        .env("RAILWAY_PROJECT_ID", PROJECT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What the first comparison finds and what the lines say are two things.
    if !mode.is_empty() {
        double.wait_until("the first comparison", |asked| {
            asked.iter().any(|asked| asked.text().contains("serviceInstance("))
        });
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all((login.repeat(21) + &flood.repeat(6)).as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    (stdout(&output), stderr(&output))
}

#[test]
fn the_program_closes_the_edge_only_if_it_may() {
    let world = World::new();
    let (lines, said) = program(&world, "");
    assert!(lines.contains(r#""op":"start","action":"under_attack""#), "{lines}");
    assert!(said.contains("dry: would put 203.0.113.7 into the edge rules of web"), "{said}");
    assert!(said.contains("dry: would switch Under Attack Mode of web on until"), "{said}");
    assert!(world.rules(WEB).is_empty() && world.mode(WEB).is_none());
    let (_, said) = program(&world, "mode: enforce\n");
    assert_eq!(world.kept_out(WEB), set(&["203.0.113.7"]), "{said}");
    assert!(world.mode(WEB).is_some(), "{said}");
    assert!(!said.contains(TOKEN), "{said}");
}
