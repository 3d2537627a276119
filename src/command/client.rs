//! `portcullis status|decisions|why|block|lock|require-2fa|lift|allow|disallow`: what is asked of a
//! Portcullis that runs, over its HTTP.

use super::{print, say, settings};
use crate::action::escape;
use crate::cli::{Command, Common, Decisions, Hold, Server};
use crate::config::CLIENT_VARIABLES;
use crate::serve::LISTEN;
use crate::serve::api::LIMIT_MAX;
use crate::serve::target::{parse as meant, spelled};
use crate::sink::Output;
use crate::sink::http::{Answer, Client, Method, encoded};
use crate::sink::secret::SecretPlace;
use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Decisions that a table has unless told otherwise.
const LISTED: u32 = 100;

/// How long an answer is waited for: a little longer than `serve` waits itself unless told otherwise, which then
/// says what is the matter.
const PATIENCE: Duration = Duration::from_secs(40);

/// Bytes of an answer: as many decisions as can be asked for.
const ANSWER_MAX: u64 = 64 << 20;

/// Runs one of the commands. Exit code 0: done; 1: refused, for example by a guard; 2: there was
/// nobody, or he did not know the token or what was meant.
///
/// # Errors
/// What led to exit code 2.
pub fn client(common: &Common, command: &Command) -> Result<ExitCode> {
    let json = match common.output() {
        None | Some(Output::Text) => false,
        Some(Output::Json) => true,
        Some(Output::Ecs) => bail!("error: this command writes text or json, not ecs"),
    };
    let asked = Asked::of(command)?;
    let server = asked.server;
    let url = url(common, server)?;
    let answer = call(&url, server, &asked)?;
    if answer.is_ok() {
        if answer.cut {
            bail!(
                "error: the answer is longer than 64 MiB: ask for less\n  help: with a smaller --limit, or with --target, --rule, --action or --mode"
            );
        }
        let body: Value = serde_json::from_str(&answer.body).map_err(|_| no_portcullis(&url))?;
        // Anything may answer at a wrong address, and agree to all.
        if body.get(asked.tells).is_none() {
            return Err(no_portcullis(&url));
        }
        if json {
            print(&body.to_string());
        } else {
            print((asked.show)(&body).trim_end());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let told: Option<Value> = serde_json::from_str(&answer.body).ok();
    let reason = told.as_ref().and_then(|body| body["reason"].as_str());
    let Some(reason) = reason.map(escape) else { return Err(no_portcullis(&url)) };
    if json && let Some(body) = &told {
        print(&body.to_string());
    }
    match answer.status {
        409 => {
            say(&format!("refused: {reason}"));
            Ok(ExitCode::from(1))
        }
        401 => {
            let [_, variable] = CLIENT_VARIABLES;
            bail!(
                "error: {url} did not let us in: {reason}\n  help: put the token into {variable}, or say --token-file FILE; `serve.tokens` of its configuration says who has one"
            )
        }
        403 => bail!(
            "error: {url} did not let us do that: {reason}\n  help: use the token of somebody with that role"
        ),
        status => bail!("error: {url} answered {status}: {reason}"),
    }
}

/// What is asked.
struct Asked<'c> {
    method: Method,
    path: String,
    body: Option<Value>,
    server: &'c Server,
    /// What every answer has.
    tells: &'static str,
    show: fn(&Value) -> String,
}

impl<'c> Asked<'c> {
    fn of(command: &'c Command) -> Result<Self> {
        Ok(match command {
            Command::Status(server) => {
                Self::get("/api/status".to_owned(), server, "decisions", show_status)
            }
            Command::Why(at) => {
                let path = format!("/api/why/{}", encoded(&at.target));
                Self::get(path, &at.server, "counters", show_why)
            }
            Command::Decisions(wanted) => Self::get(
                format!("/api/decisions?{}", query(wanted)),
                &wanted.server,
                "decisions",
                if wanted.history { show_history } else { show_decisions },
            ),
            Command::Block(hold) => Self::hold("/api/block", hold),
            Command::Lock(hold) => Self::hold("/api/lock", hold),
            Command::Require2fa(hold) => Self::hold("/api/require_2fa", hold),
            Command::Lift(lift) => {
                let because = because(lift.because.as_ref(), "lifted");
                let mut body = json!({ "target": lift.at.target, "because": because });
                put(&mut body, "grace", lift.grace.as_ref());
                Self { show: show_lifted, ..Self::post("/api/lift", body, &lift.at.server) }
            }
            Command::Allow(allow) => match &allow.target {
                Some(target) => {
                    let because = because(allow.because.as_ref(), "allowed");
                    let mut body = json!({ "target": target, "because": because });
                    put(&mut body, "for", allow.r#for.as_ref());
                    Self::post("/api/allow", body, &allow.server)
                }
                None => Self::get("/api/allow".to_owned(), &allow.server, "spared", show_spared),
            },
            Command::Disallow(disallow) => {
                let because = because(disallow.because.as_ref(), "disallowed");
                let body = json!({ "target": disallow.at.target, "because": because });
                Self::post("/api/disallow", body, &disallow.at.server)
            }
            _ => bail!("error: this command asks nothing of anybody"),
        })
    }

    fn get(
        path: String,
        server: &'c Server,
        tells: &'static str,
        show: fn(&Value) -> String,
    ) -> Self {
        Self { method: Method::Get, path, body: None, server, tells, show }
    }

    fn post(path: &str, body: Value, server: &'c Server) -> Self {
        let (path, body) = (path.to_owned(), Some(body));
        Self { method: Method::Post, path, body, server, tells: "actions", show: show_carried }
    }

    fn hold(path: &str, hold: &'c Hold) -> Self {
        let body = json!({
            "target": hold.at.target,
            "for": hold.r#for,
            "because": hold.because,
            "force": hold.force,
        });
        Self::post(path, body, &hold.at.server)
    }
}

fn put(body: &mut Value, name: &str, text: Option<&String>) {
    if let Some(text) = text {
        body[name] = json!(text);
    }
}

/// Why, or else who did what.
fn because(said: Option<&String>, what: &str) -> String {
    let user = || std::env::var("USER").ok().filter(|user| !user.trim().is_empty());
    said.cloned().unwrap_or_else(|| match user() {
        Some(user) => format!("{what} by hand by {}", escape(&user)),
        None => format!("{what} by hand"),
    })
}

fn query(wanted: &Decisions) -> String {
    let limit = wanted.limit.unwrap_or(LISTED).to_string();
    let parts = [
        ("history", wanted.history.then(|| "true".to_owned())),
        ("limit", Some(limit)),
        ("action", wanted.action.clone()),
        ("mode", wanted.mode.clone()),
        ("target", wanted.target.clone()),
        ("rule", wanted.rule.clone()),
    ];
    let parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let parts: Vec<String> =
        parts.map(|(name, value)| format!("{name}={}", encoded(&value))).collect();
    parts.join("&")
}

/// Where it serves.
fn url(common: &Common, server: &Server) -> Result<String> {
    if let Some(url) = server.url.as_ref().filter(|url| !url.is_empty()) {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("error: `{url}` is no URL\n  help: for example http://127.0.0.1:7979");
        }
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
        if authority.is_some_and(|authority| authority.contains('@')) {
            let [name, token] = CLIENT_VARIABLES;
            bail!(
                "error: --url or {name} must not hold a name or a password\n  help: who asks is said by the token in {token}"
            );
        }
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let serve = settings(common)?.serve;
    let listen = serve.as_ref().map_or(LISTEN, |serve| serve.listen.as_str());
    let secure = serve.as_ref().is_some_and(|serve| serve.tls.is_some());
    // Whoever listens everywhere listens here.
    let listen = match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    };
    Ok(format!("{}://{listen}", if secure { "https" } else { "http" }))
}

/// The token, if there is one.
fn token(server: &Server) -> Result<Option<String>> {
    let [_, variable] = CLIENT_VARIABLES;
    let place = match &server.token_file {
        Some(path) => SecretPlace::File(path.clone()),
        None if std::env::var_os(variable).is_some_and(|token| !token.is_empty()) => {
            SecretPlace::Env(variable.to_owned())
        }
        None => return Ok(None),
    };
    let secret = place.read().map_err(|why| anyhow!("error: the token: {why}"))?;
    if !secret.reveal().bytes().all(|b| b.is_ascii_graphic()) {
        bail!("error: the token: {place} holds something that is no visible ASCII");
    }
    Ok(Some(secret.reveal().to_owned()))
}

fn call(url: &str, server: &Server, asked: &Asked<'_>) -> Result<Answer> {
    let shows = server.cert.as_deref().zip(server.key.as_deref());
    let client = Client::patient(server.ca.as_deref(), shows, PATIENCE)
        .map_err(|why| anyhow!("error: {why}"))?;
    let client = client.reading(ANSWER_MAX);
    let bearer = token(server)?.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("accept", "application/json")];
    if let Some(bearer) = &bearer {
        headers.push(("authorization", bearer));
    }
    let body = asked.body.as_ref().map(ToString::to_string);
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let whole = format!("{url}{}", asked.path);
    let sent = client.call(asked.method, &whole, &headers, body.as_deref().map(str::as_bytes));
    sent.map_err(|trouble| {
        let help = if trouble.why().contains("CertificateRequired") {
            "it lets in only who shows a certificate that it trusts: --cert FILE and --key FILE"
        } else if trouble.why().contains("certificate")
            || trouble.why().contains("UnknownIssuer")
        {
            "if an authority of your own has signed its certificate, name it with --ca FILE"
        } else if trouble.why().contains("timeout: global") && asked.body.is_some() {
            "it does not answer; the order may still be carried out: `portcullis decisions` says whether it was"
        } else {
            "does it run, and does its configuration say `serve`? --url or PORTCULLIS_URL say where"
        };
        anyhow!("error: cannot reach {url}: {}\n  help: {help}", escape(trouble.why()))
    })
}

fn no_portcullis(url: &str) -> anyhow::Error {
    anyhow!(
        "error: what answers at {url} is no Portcullis of this version\n  help: --url or PORTCULLIS_URL say where it serves"
    )
}

/// A text of an answer, safe to show.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => String::new(),
        other => escape(&other.to_string()),
    }
}

/// A time without its fraction.
fn instant(value: &Value) -> String {
    let text = shown(value);
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text,
    }
}

/// A target as it is to be named. An account may be called like anything else: what a client typed.
fn target(value: &Value) -> String {
    let kind = shown(&value["kind"]);
    let name = value["value"].as_str().unwrap_or_default();
    let text = spelled(name);
    // One that begins with a dash would be an option.
    let is_plain = || {
        !text.starts_with('-')
            && meant(&text).is_ok_and(|target| target.kind == "user" && target.text() == name)
    };
    match kind.as_str() {
        "ip" | "range" => text,
        "global" => kind,
        "user" if text != "global" && is_plain() => text,
        _ => format!("{kind}:{text}"),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Columns are at most so wide; a longer cell, as a client's long name, sticks out of its own.
const WIDTH_MAX: usize = 48;

/// Rows in columns, each as wide as its widest.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |n: usize| {
        let widths = rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count());
        widths.filter(|width| *width <= WIDTH_MAX).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _infallible = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

fn decision_table(decisions: &[Value], history: bool) -> String {
    let heads =
        ["TARGET", "ACTION", "MODE", "RULE", "STARTED", if history { "ENDED" } else { "UNTIL" }];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for decision in decisions {
        let end = match &decision["ended"] {
            Value::Null if history => format!("(until {})", instant(&decision["until"])),
            Value::Null => instant(&decision["until"]),
            ended => instant(ended),
        };
        rows.push(vec![
            target(&decision["target"]),
            shown(&decision["action"]),
            shown(&decision["mode"]),
            shown(&decision["rule"]),
            instant(&decision["started"]),
            end,
        ]);
    }
    table(&rows)
}

fn show_decisions(body: &Value) -> String {
    match items(&body["decisions"]) {
        [] => "nothing is in force".to_owned(),
        decisions => decision_table(decisions, false) + &left_out(body),
    }
}

fn show_history(body: &Value) -> String {
    match items(&body["decisions"]) {
        [] => "there is none in the history".to_owned(),
        decisions => decision_table(decisions, true) + &left_out(body),
    }
}

/// How many decisions a table has not, and how to see them.
fn left_out(body: &Value) -> String {
    let shown = u64::try_from(items(&body["decisions"]).len()).unwrap_or(u64::MAX);
    let total = body["total"].as_u64().unwrap_or(0);
    match total.saturating_sub(shown) {
        0 => String::new(),
        more => format!(
            "and {more} older ones: --limit {} shows more, --target, --rule, --action and --mode choose among all {total}\n",
            total.min(LIMIT_MAX.into())
        ),
    }
}

fn show_why(body: &Value) -> String {
    let mut out = String::new();
    let who = target(&body["target"]);
    let decisions = items(&body["decisions"]);
    if decisions.is_empty() {
        let _infallible = writeln!(out, "{who}: nothing is in force against it");
    }
    for decision in decisions {
        let _infallible = writeln!(
            out,
            "{}: {} ({}) until {}: {}",
            target(&decision["target"]),
            shown(&decision["action"]),
            shown(&decision["mode"]),
            instant(&decision["until"]),
            shown(&decision["reason"])
        );
    }
    if let Some(guard) = body["guard"].as_str() {
        let _infallible = writeln!(out, "{who}: the guard {} holds actions back", escape(guard));
    }
    let counters = items(&body["counters"]);
    if counters.is_empty() {
        let what = match decisions {
            [] => "no rule has counted anything",
            _ => "no rule counts anything that was not used up by a decision",
        };
        let _infallible = writeln!(out, "{who}: {what}");
    }
    for counter in counters {
        let per = match &counter["target"] {
            Value::Null => String::new(),
            other => format!(" (counted per {})", target(other)),
        };
        let (rule, sentence) = (shown(&counter["rule"]), shown(&counter["sentence"]));
        let _infallible = writeln!(out, "{rule}: {sentence}{per}");
        for what in ["users", "ips", "request_ids"] {
            let (distinct, sample) = (&counter[what]["distinct"], items(&counter[what]["sample"]));
            if !sample.is_empty() {
                let some: Vec<String> = sample.iter().map(shown).collect();
                let _infallible = writeln!(out, "  {what}: {distinct}, first {}", some.join(", "));
            }
        }
    }
    out
}

fn show_spared(body: &Value) -> String {
    let entries = items(&body["spared"]);
    if entries.is_empty() {
        return "the allowlist is empty, and nobody is spared after a lift".to_owned();
    }
    let mut rows = vec![["TARGET", "BY", "UNTIL", "BECAUSE"].map(str::to_owned).to_vec()];
    for entry in entries {
        rows.push(vec![
            target(&entry["target"]),
            shown(&entry["by"]),
            instant(&entry["until"]),
            shown(&entry["because"]),
        ]);
    }
    table(&rows)
}

fn show_lifted(body: &Value) -> String {
    match items(&body["lifted"]) {
        [] => "done; nothing was in force against it: `portcullis decisions` shows what is, each target as it is to be named".to_owned(),
        _ => show_carried(body),
    }
}

fn show_carried(body: &Value) -> String {
    let mut out = String::new();
    for decision in items(&body["lifted"]) {
        let _infallible = writeln!(
            out,
            "lifted: {} of {} by {}, which would have ended {}",
            shown(&decision["action"]),
            target(&decision["target"]),
            shown(&decision["rule"]),
            instant(&decision["until"])
        );
    }
    for action in items(&body["actions"]).iter().filter(|action| action["op"] != "end") {
        let until = match &action["until"] {
            Value::Null => String::new(),
            until => format!(" until {}", instant(until)),
        };
        let _infallible = writeln!(
            out,
            "{}{}: {} of {}{until}: {}",
            if action["mode"] == "shadow" { "in shadow, where nothing is enforced: " } else { "" },
            shown(&action["op"]),
            shown(&action["action"]),
            target(&action["target"]),
            shown(&action["reason"])
        );
    }
    if out.is_empty() {
        out.push_str("done; nothing was in force that had to be lifted\n");
    }
    out
}

fn show_status(body: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _infallible = writeln!(out, "{name:<10} {text}");
    };
    let started = instant(&body["started"]);
    line("version", format!("{}, serving since {started}", shown(&body["version"])));
    let ready = match body["not_ready"].as_str() {
        Some(why) => format!("no: {}", escape(why)),
        None => "yes".to_owned(),
    };
    line("ready", ready);
    let clock = match &body["clock"] {
        Value::Null => "none yet".to_owned(),
        clock => instant(clock),
    };
    let delay = body["delay_s"].as_f64().map(|s| format!(", the newest record {s:.1} s behind"));
    line("clock", clock + &delay.unwrap_or_default());
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let lines = &body["lines"];
    line("lines", format!("{}, {} matched", number(&lines["total"]), number(&lines["matched"])));
    let state = &body["state"];
    line("state", format!("{} keys in {} bytes", number(&state["keys"]), number(&state["bytes"])));
    if let Some(lag) = body["lag"]["total"].as_i64() {
        line("behind", format!("{lag} records"));
    }
    let mut name = "decisions";
    for count in items(&body["decisions"]) {
        let (action, mode) = (shown(&count["action"]), shown(&count["mode"]));
        line(name, format!("{} {action} ({mode})", number(&count["active"])));
        name = "";
    }
    if name == "decisions" {
        line(name, "none active".to_owned());
    }
    let mut name = "sinks";
    for sink in items(&body["sinks"]) {
        let why = sink["why"].as_str().map(|why| format!(": {}", escape(why)));
        let text = format!(
            "{}: {}, {} waiting, {} delivered, {} refused, {} dropped{}",
            shown(&sink["name"]),
            shown(&sink["state"]),
            number(&sink["waiting"]),
            number(&sink["delivered"]),
            number(&sink["refused"]),
            number(&sink["dropped"]),
            why.unwrap_or_default()
        );
        line(name, text);
        name = "";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_is_named() {
        for (kind, value, shown) in [
            ("user", "bob", "bob"),
            ("user", "ann@example.org", "ann@example.org"),
            ("user_id", "7", "user_id:7"),
            ("ip", "203.0.113.50", "203.0.113.50"),
            // What a client may type as his name.
            ("user", "user_id:7", "user:user_id:7"),
            ("user", "203.0.113.50", "user:203.0.113.50"),
            ("user", "2001:db8::1", "user:2001:db8::1"),
            ("user", "203.0.113.0/24", "user:203.0.113.0/24"),
            ("user", "203.0.113", "user:203.0.113"),
            ("user", "global", "user:global"),
            ("user", "--help", "user:--help"),
            ("user", "dev\u{200d}x", r"dev\u{200d}x"),
            ("user", r"dev\u{200d}x", r"dev\u{5c}u{200d}x"),
            ("user_id", "a\nb", r"user_id:a\u{a}b"),
            ("user", &"x".repeat(250), &"x".repeat(250)),
        ] {
            let told = target(&json!({ "kind": kind, "value": value }));
            assert_eq!(told, shown);
            let named = meant(&told).unwrap();
            assert_eq!((named.kind.as_str(), named.text()), (kind, value));
        }
        assert_eq!(target(&json!({ "kind": "global" })), "global");
    }
}
