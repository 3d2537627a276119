//! The sink `supabase` against a double of Supabase Auth's admin API: its paths, headers, bodies, the
//! filter that finds parts, merged metadata and the errors are as the real one has them. The real one
//! needs a PostgreSQL of its own and cannot be had here.

use crate::double::{Answer, Double, Request};
use crate::remotes::{
    action, at, decision, done, instant, knowing, later, mistakes, open, refused, secret,
};
use portcullis::action::Action;
use portcullis::sink::Context;
use portcullis::sink::remote::Remote;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const KEY: &str = "service-role-key";
const ANN: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f11";
const BOB: &str = "2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f22";

/// The double's users, and what to answer instead.
#[derive(Clone, Default)]
struct World {
    users: Arc<Mutex<Vec<Value>>>,
    /// The double's time, seconds after noon.
    clock: Arc<Mutex<i64>>,
    instead: Arc<Mutex<Option<Answer>>>,
}

impl World {
    fn with(users: &[(&str, &str)]) -> Self {
        let world = Self::default();
        for (id, email) in users {
            world.users.lock().unwrap().push(json!({
                "id": id, "email": email, "app_metadata": { "provider": "email", "plan": "gold" },
            }));
        }
        world
    }

    fn user(&self, id: &str) -> Value {
        self.users.lock().unwrap().iter().find(|user| user["id"] == id).unwrap().clone()
    }

    fn set(&self, id: &str, key: &str, value: Value) {
        let mut users = self.users.lock().unwrap();
        users.iter_mut().find(|user| user["id"] == id).unwrap()[key] = value;
    }

    fn answer(&self, request: &Request) -> Answer {
        if let Some(answer) = self.instead.lock().unwrap().clone() {
            return answer;
        }
        let bearer = format!("Bearer {KEY}");
        if request.header("apikey") != Some(KEY) || request.header("authorization") != Some(&bearer)
        {
            return error(401, "no_authorization", "This endpoint requires a valid Bearer token");
        }
        assert_eq!(request.header("x-supabase-api-version"), Some("2024-01-01"));
        let path = request.path.strip_prefix("/auth/v1/admin/users").unwrap();
        let mut users = self.users.lock().unwrap();
        if let Some(query) = path.strip_prefix('?') {
            return list(&users, query);
        }
        let id = &path[1..];
        if !portcullis::action::identity::is_uuid(id) {
            return error(404, "validation_failed", "user_id must be an UUID");
        }
        let Some(user) = users.iter_mut().find(|user| user["id"] == id) else {
            return error(404, "user_not_found", "User not found");
        };
        if request.method == "PUT" {
            let body = request.json();
            if let Some(lasting) = body.get("ban_duration").and_then(Value::as_str) {
                let until = match lasting.strip_suffix('s').map(str::parse::<i64>) {
                    _ if lasting == "none" => Value::Null,
                    Some(Ok(seconds)) => json!(instant(*self.clock.lock().unwrap() + seconds)),
                    _ => return error(400, "validation_failed", "invalid format for ban duration"),
                };
                user["banned_until"] = until;
            }
            for (key, value) in
                body.get("app_metadata").and_then(Value::as_object).into_iter().flatten()
            {
                let metadata = user["app_metadata"].as_object_mut().unwrap();
                match value {
                    Value::Null => drop(metadata.remove(key)),
                    value => drop(metadata.insert(key.clone(), value.clone())),
                }
            }
        }
        Answer::new(200).json(user)
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status).json(&json!({ "code": status, "error_code": code, "msg": message }))
}

/// As the real one: parts, in the case in which they are, page by page.
fn list(users: &[Value], query: &str) -> Answer {
    let of = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    let filter = of("filter").replace("%40", "@").replace("%2B", "+");
    let (page, size): (usize, usize) =
        (of("page").parse().unwrap(), of("per_page").parse().unwrap());
    let found = users.iter().filter(|user| user["email"].as_str().unwrap().contains(&filter));
    let page: Vec<&Value> = found.skip((page - 1) * size).take(size).collect();
    Answer::new(200).json(&json!({ "users": page, "aud": "authenticated" }))
}

struct Setting {
    world: World,
    double: Double,
    sink: Box<dyn Remote>,
}

fn setting(users: &[(&str, &str)], context: &Context) -> Setting {
    let world = World::with(users);
    let answers = world.clone();
    let double = Double::new(move |request: &Request| answers.answer(request));
    let sink = sink(&double, context, KEY);
    Setting { world, double, sink }
}

fn sink(double: &Double, context: &Context, key: &str) -> Box<dyn Remote> {
    let key = secret(key);
    let entry = format!(
        "supabase: {{ url: '{}', key: {{ file: '{}' }}, require_2fa: {{ app_metadata_key: require_mfa }} }}",
        double.url("/"),
        key.path().display()
    );
    open(&entry, context).unwrap()
}

impl Setting {
    fn done(&mut self, action: &Action, second: i64) {
        *self.world.clock.lock().unwrap() = second;
        done(&mut self.sink, std::slice::from_ref(action), second);
    }

    /// What was changed since it was asked last.
    fn changes(&self) -> Vec<String> {
        let puts = self.double.requests().into_iter().filter(|asked| asked.method == "PUT");
        let told =
            puts.map(|asked| format!("{} {}", &asked.path[asked.path.len() - 2..], asked.text()));
        let told = told.collect();
        self.double.forget();
        told
    }
}

fn lock(id: &str, kind: &str, value: &str, until: i64) -> Action {
    action(&json!({
        "id": id, "decision": id, "action": "lock", "target": { "kind": kind, "value": value },
        "until": instant(until), "rule": "lockout",
    }))
}

fn demand(id: &str, value: &str, until: i64) -> Action {
    Action { action: "require_2fa", ..lock(id, "user_id", value, until) }
}

fn extended(start: &Action, until: i64) -> Action {
    let op = portcullis::action::Op::Extend;
    Action { id: "e".to_owned(), op, until: Some(instant(until)), ..start.clone() }
}

fn ended(start: &Action, second: i64) -> Action {
    let op = portcullis::action::Op::End;
    Action { id: "f".to_owned(), op, until: None, time: instant(second), ..start.clone() }
}

#[test]
fn a_lock_bans_for_what_is_left_and_a_lift_takes_it_back() {
    let mut at = setting(&[(ANN, "ann@example.org")], &Context::default());
    let start = lock("a1", "user_id", ANN, 3600);
    at.done(&start, 100);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"3500s"}"#]);
    // The same again changes nothing.
    at.done(&start, 101);
    assert!(at.changes().is_empty());
    at.done(&extended(&start, 7200), 200);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"7000s"}"#]);
    at.done(&ended(&start, 300), 300);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"none"}"#]);
    // Now it is nothing of ours any more.
    at.world.set(ANN, "banned_until", json!(instant(9000)));
    at.done(&ended(&start, 300), 301);
    assert!(at.changes().is_empty());
}

#[test]
fn what_ends_by_itself_needs_no_call_and_what_is_over_none_at_all() {
    let mut at = setting(&[(ANN, "ann@example.org")], &Context::default());
    let start = lock("a1", "user_id", ANN, 3600);
    at.done(&start, 0);
    at.double.forget();
    at.done(&ended(&start, 3600), 3601);
    assert!(at.double.requests().is_empty());
    // The stream's clock may be before ours.
    at.done(&start, 0);
    at.double.forget();
    at.done(&ended(&start, 3600), 3590);
    assert!(at.double.requests().is_empty());
    at.done(&lock("a2", "user_id", ANN, 50), 50);
    assert!(at.double.requests().is_empty());
    // Less than a second is one.
    at.world.set(ANN, "banned_until", Value::Null);
    let mut short = lock("a3", "user_id", ANN, 60);
    short.until = Some(instant(60).replace(".000000Z", ".000001Z"));
    at.done(&short, 60);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"1s"}"#]);
}

#[test]
fn a_ban_of_somebody_else_is_left_as_it_is() {
    let mut at = setting(&[(ANN, "ann@example.org")], &Context::default());
    at.world.set(ANN, "banned_until", json!(instant(1_000_000)));
    let start = lock("a1", "user_id", ANN, 3600);
    at.done(&start, 0);
    at.done(&ended(&start, 10), 10);
    assert!(at.changes().is_empty());
    // A shorter one is there again when ours is lifted.
    at.world.set(ANN, "banned_until", json!(instant(600)));
    at.done(&start, 100);
    at.done(&ended(&start, 200), 200);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"3500s"}"#, r#"11 {"ban_duration":"400s"}"#]);
}

#[test]
fn two_decisions_hold_one_user_until_the_last_is_lifted() {
    let mut at = setting(&[(ANN, "ann@example.org")], &knowing(&[(ANN, "ann@example.org")]));
    let by_id = lock("a1", "user_id", ANN, 3600);
    let by_name = lock("b1", "user", "ann@example.org", 7200);
    at.done(&by_name, 0);
    at.done(&by_id, 0);
    at.done(&ended(&by_name, 100), 100);
    at.done(&ended(&by_id, 200), 200);
    let want = [
        r#"11 {"ban_duration":"7200s"}"#,
        r#"11 {"ban_duration":"3500s"}"#,
        r#"11 {"ban_duration":"none"}"#,
    ];
    assert_eq!(at.changes(), want);
}

#[test]
fn a_second_factor_is_demanded_beside_what_is_there_and_taken_away_by_whoever_set_it() {
    let mut at = setting(&[(ANN, "a@b.c"), (BOB, "b@b.c")], &Context::default());
    let start = demand("a1", ANN, 3600);
    at.done(&start, 0);
    let metadata = at.world.user(ANN)["app_metadata"].clone();
    let mine = json!({ "provider": "email", "plan": "gold", "require_mfa": true, "require_mfa_by": "portcullis" });
    assert_eq!(metadata, mine);
    at.done(&ended(&start, 3600), 3600);
    assert_eq!(at.world.user(ANN)["app_metadata"], json!({ "provider": "email", "plan": "gold" }));
    // Somebody else's demand outlasts ours, also if we have forgotten everything.
    at.world.set(BOB, "app_metadata", json!({ "require_mfa": true }));
    let start = demand("b1", BOB, 3600);
    at.done(&start, 0);
    at.sink = sink(&at.double, &Context::default(), KEY);
    at.done(&ended(&start, 3600), 3600);
    assert_eq!(at.world.user(BOB)["app_metadata"], json!({ "require_mfa": true }));
    // Ours is taken away after a restart.
    at.world.set(BOB, "app_metadata", json!({}));
    at.done(&start, 0);
    at.sink = sink(&at.double, &Context::default(), KEY);
    at.done(&ended(&start, 3600), 3600);
    assert_eq!(at.world.user(BOB)["app_metadata"], json!({}));
}

#[test]
fn after_a_restart_a_lift_takes_back_what_was_active_and_nothing_else() {
    let mut at =
        setting(&[(ANN, "ann@example.org"), (BOB, "bob@example.org")], &Context::default());
    let ours = lock("a1", "user", "ann@example.org", 3600);
    at.done(&ours, 0);
    at.world.set(BOB, "banned_until", json!(instant(1800)));
    at.changes();
    at.sink = sink(&at.double, &Context::default(), KEY);
    at.sink.reconcile(&[decision(&ours)], crate::remotes::at(10)).unwrap();
    assert!(at.double.requests().is_empty());
    at.done(&ended(&ours, 20), 20);
    at.done(&ended(&lock("b1", "user", "bob@example.org", 1800), 20), 20);
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"none"}"#]);
}

#[test]
fn a_lift_that_waited_over_a_restart_takes_the_ban_back() {
    let users = [(ANN, "ann@example.org"), (BOB, "bob@example.org")];
    let mut at = setting(&users, &Context::default());
    let ours = lock("a1", "user", "ann@example.org", 3600);
    at.done(&ours, 0);
    // Bob's ban is somebody else's.
    at.world.set(BOB, "banned_until", json!(instant(9999)));
    at.changes();
    at.sink = sink(&at.double, &Context::default(), KEY);
    at.sink.reconcile(&[], crate::remotes::at(10)).unwrap();
    for start in [ours, lock("b1", "user", "bob@example.org", 3600)] {
        let end = ended(&start, 20);
        assert!(at.sink.lacks(&end));
        let known = decision(&start);
        at.sink.recall(&known, known.until);
        assert!(!at.sink.lacks(&end));
        at.done(&end, 20);
    }
    assert_eq!(at.changes(), [r#"11 {"ban_duration":"none"}"#]);
}

#[test]
fn an_address_is_looked_up_and_compared_as_a_whole() {
    let mut many: Vec<(String, String)> = (0..120)
        .map(|n| (format!("2f1c6f0a-7f6c-4a53-9df2-{n:012}"), format!("x{n}bob+1@example.org")))
        .collect();
    many.push((BOB.to_owned(), "bob+1@example.org".to_owned()));
    many.push((ANN.to_owned(), "ann@example.org.evil.test".to_owned()));
    let users: Vec<(&str, &str)> =
        many.iter().map(|(id, email)| (id.as_str(), email.as_str())).collect();
    let mut at = setting(&users, &Context::default());
    at.done(&lock("b1", "user", "bob+1@example.org", 3600), 0);
    assert_eq!(at.double.requests().len(), 5, "three pages, one user read, one changed");
    assert_eq!(at.changes(), [r#"22 {"ban_duration":"3600s"}"#]);
    // For a while it is known.
    at.done(&lock("b2", "user", "bob+1@example.org", 7200), 60);
    assert_eq!(at.double.requests().len(), 2);
    at.changes();
    at.done(&lock("b3", "user", "bob+1@example.org", 9200), 900);
    assert_eq!(at.double.requests().len(), 5);
    at.changes();
    let nobody = lock("c1", "user", "ann@example.org", 3600);
    assert_eq!(refused(&mut at.sink, &nobody, 0), "no user has the e-mail address ann@example.org");
    // Two of one address: neither.
    at.world
        .users
        .lock()
        .unwrap()
        .push(json!({ "id": BOB.replace("22", "33"), "email": "ann@example.org" }));
    at.world
        .users
        .lock()
        .unwrap()
        .push(json!({ "id": BOB.replace("22", "44"), "email": "Ann@Example.org" }));
    at.world
        .users
        .lock()
        .unwrap()
        .push(json!({ "id": BOB.replace("22", "55"), "email": "ann@example.org" }));
    let why = refused(&mut at.sink, &nobody, 0);
    assert!(
        why.contains("2 users have the e-mail address ann@example.org: none is touched"),
        "{why}"
    );
    assert!(at.changes().is_empty());
}

#[test]
fn identities_save_the_search() {
    let context = knowing(&[(ANN, "ann@example.org"), ("u-7", "old@example.org")]);
    let mut at = setting(&[(ANN, "changed@example.org")], &context);
    at.done(&lock("a1", "user", "ann@example.org", 3600), 0);
    assert_eq!(at.double.requests().len(), 2);
    let why = refused(&mut at.sink, &lock("a2", "user", "old@example.org", 3600), 0);
    assert!(why.contains("the id that `identities` has for old@example.org is no UUID"), "{why}");
}

#[test]
fn whoever_is_not_exactly_one_user_is_left_alone() {
    let mut at = setting(&[(ANN, "ann@example.org")], &Context::default());
    for (kind, value, why) in [
        ("user_id", "u-1", "is no UUID"),
        ("user_id", "../../settings", "is no UUID"),
        ("user", "ann", "is no e-mail address"),
        ("user", ANN, "is no e-mail address"),
        ("user_id", BOB, "User not found"),
    ] {
        let told = refused(&mut at.sink, &lock("a1", kind, value, 3600), 0);
        assert!(told.contains(why), "{value}: {told}");
    }
    assert!(at.changes().is_empty());
    // Only what it can do is wanted.
    let shadow = Action { mode: "shadow", ..lock("a1", "user_id", ANN, 3600) };
    let block = Action { action: "block", ..lock("a1", "ip", "203.0.113.7", 3600) };
    assert!(!at.sink.wants(&shadow) && !at.sink.wants(&block));
    assert!(at.sink.acts());
}

#[test]
fn errors_are_told_apart_and_never_hold_the_key() {
    let mut at = setting(&[(ANN, "ann@example.org")], &Context::default());
    let start = lock("a1", "user_id", ANN, 3600);
    let answer = |answer: Answer| *at.world.instead.lock().unwrap() = Some(answer);
    answer(Answer::new(429).header("retry-after", "7"));
    assert_eq!(later(&mut at.sink, &start, 0).1, Some(std::time::Duration::from_secs(7)));
    answer(Answer::new(503));
    later(&mut at.sink, &start, 0);
    answer(Answer::hang_up());
    later(&mut at.sink, &start, 0);
    answer(Answer::new(200).body("<html>"));
    later(&mut at.sink, &start, 0);
    answer(Answer::new(403).body(format!("the key {KEY} is not allowed")));
    let (why, _) = later(&mut at.sink, &start, 0);
    assert!(why.contains("`key` must be the service role's"), "{why}");
    assert!(!why.contains(KEY), "{why}");
    answer(error(422, "validation_failed", "no"));
    let why = refused(&mut at.sink, &start, 0);
    assert!(!why.contains(KEY) && why.contains("422"), "{why}");
    assert!(!format!("{:?}", at.sink).contains(KEY));
}

#[test]
fn a_test_says_whether_the_key_is_a_service_roles() {
    let mut here = setting(&[(ANN, "ann@example.org")], &Context::default());
    let told = here.sink.test(at(0)).unwrap();
    assert!(told.contains("the key is a service role's"), "{told}");
    assert_eq!(here.double.requests()[0].path, "/auth/v1/admin/users?page=1&per_page=1");
    let mut wrong = sink(&here.double, &Context::default(), "anon-key");
    let told = wrong.test(at(0)).unwrap_err();
    assert!(told.contains("must be the service role's key, not the anonymous one"), "{told}");
    assert!(!told.contains("anon-key"), "{told}");
    *here.world.instead.lock().unwrap() = Some(Answer::new(200).body("welcome"));
    assert!(here.sink.test(at(0)).unwrap_err().contains("no list of users"));
}

#[test]
fn options_are_checked() {
    let needs = mistakes("supabase: {}");
    assert!(needs.contains("needs `url`") && needs.contains("needs `key`"), "{needs}");
    let told = mistakes("supabase: { url: 'https://me:secret@x.test', key: secret }");
    assert!(told.contains("a password has no place in it"), "{told}");
    assert!(told.contains("must say where the secret is"), "{told}");
    for url in ["x.test", "https://", "https://x.test?a=b", "ftp://x.test"] {
        let told = mistakes(&format!("supabase: {{ url: '{url}', key: {{ env: KEY }} }}"));
        assert!(told.contains("`supabase.url`"), "{url}: {told}");
    }
    let told = mistakes(
        "supabase: { url: 'https://x.test', key: { env: K }, require_2fa: { app_metadata_key: provider } }",
    );
    assert!(told.contains("cannot be the name"), "{told}");
    let told = mistakes("supabase: { url: 'https://x.test', key: { env: K }, require_2fa: {} }");
    assert!(told.contains("needs `app_metadata_key`"), "{told}");
    let entry = "supabase: { url: 'https://x.test', key: { env: PORTCULLIS_TEST_NO_SUCH } }";
    assert!(open(entry, &Context::default()).unwrap_err().contains("is not set"));
}
