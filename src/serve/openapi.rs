//! The description of everything that can be asked for, as OpenAPI 3.1.

use super::api::{BECAUSE_MAX, LASTING, LIMIT, LIMIT_MAX};
use super::auth::Need;
use super::routes::{ROUTES, Route};
use super::target::{KINDS, TEXT_MAX};
use crate::decode::time::{self, Micros};
use crate::detect::condition::ACTIONS;
use crate::detect::rule::MODES;
use axum::Json;
use serde_json::{Map, Value, json};

/// GET /openapi.json.
pub async fn answer() -> Json<Value> {
    Json(document())
}

/// The document. Its paths come out of the table of routes, so that none can be missing.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
        if route.method == "GET" && route.path.starts_with("/v1/") {
            path["head"] = head(route);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What is in force, for those who enforce it, and a door for operators. A token goes into `Authorization: Bearer` or `X-Api-Key`. Errors are `{\"error\":\"...\",\"reason\":\"...\"}`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" }
            },
            "schemas": schemas()
        }
    })
}

fn operation(route: &Route) -> Value {
    let (summary, mut body) = said(route).unwrap_or_else(|| ("Not described.", json!({})));
    let responses = body["responses"].take();
    let mut operation = body;
    let id =
        format!("{} {}", route.method.to_lowercase(), route.path.replace(['/', '{', '}'], " "));
    let id: Vec<_> = id.split_whitespace().collect();
    operation["operationId"] = json!(id.join("_").replace(['.', '-'], "_"));
    operation["summary"] = json!(summary);
    operation["responses"] = with_errors(route, responses);
    operation["security"] = match route.need {
        Need::Nothing => json!([]),
        _ => json!([{ "bearer": [] }, { "key": [] }]),
    };
    operation["description"] = json!(match route.need {
        Need::Nothing => "Needs no token.",
        Need::Read => "For the roles read and operator.",
        Need::Bouncer => "For the roles bouncer and operator.",
        Need::Operator => "For the role operator.",
    });
    operation
}

/// HEAD of the Local API: bouncers ask by it whether their key is good.
fn head(route: &Route) -> Value {
    let mut operation = operation(route);
    let id = operation["operationId"].as_str().unwrap_or_default().replacen("get", "head", 1);
    operation["operationId"] = json!(id);
    for (_, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        *response = json!({ "description": response["description"] });
    }
    operation
}

fn with_errors(route: &Route, responses: Value) -> Value {
    let mut all = responses;
    if route.need == Need::Nothing {
        return all;
    }
    let lapi = route.path.starts_with("/v1/");
    let mut add = |status: &str, description: &str, schema: &str| {
        all[status] = json!({ "description": description, "content": content(schema) });
    };
    if lapi {
        add("403", "The token is missing, not known, or has another role.", "Forbidden");
    } else {
        add("401", "The token is missing or not known.", "Error");
        add("403", "The token has another role.", "Error");
        add("400", "A parameter is not known or cannot be read, or the body is no JSON.", "Error");
    }
    add("408", "The body did not come in time.", "Error");
    add("413", "The body is too long.", "Error");
    add("503", "There is no answer now.", "Error");
    all
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": reference(schema) } })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn ok(description: &str, schema: &str) -> Value {
    json!({ "200": { "description": description, "content": content(schema) } })
}

fn plain(description: &str) -> Value {
    let schema = json!({ "schema": { "type": "string" } });
    json!({ "200": { "description": description, "content": { "text/plain": schema } } })
}

fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn texts(names: &[(&str, &str)]) -> Vec<Value> {
    let text = json!({ "type": "string" });
    names.iter().map(|(name, description)| query(name, description, &text)).collect()
}

fn error(description: &str) -> Value {
    json!({ "description": description, "content": content("Error") })
}

/// A route that gives an order.
fn order(schema: &str) -> Value {
    let mut responses = ok("What followed, and what was lifted.", "Carried");
    responses["409"] = error("A guard, or something else, speaks against it.");
    responses["415"] = error("The body's type is not application/json.");
    responses["422"] = error("The body cannot be what is meant.");
    json!({
        "requestBody": { "required": true, "content": content(schema) },
        "responses": responses
    })
}

fn said(route: &Route) -> Option<(&'static str, Value)> {
    Some(match (route.method, route.path) {
        ("GET", "/health") => {
            ("Whether the process answers.", json!({ "responses": ok("It does.", "Up") }))
        }
        ("GET", "/ready") => (
            "Whether it reads and counts; 503 says why not. How the sinks are says /api/status.",
            json!({ "responses": ok("It does.", "Ready") }),
        ),
        ("GET", "/metrics") => {
            ("Figures for Prometheus.", json!({ "responses": plain("The figures.") }))
        }
        ("GET", "/openapi.json") => {
            ("This document.", json!({ "responses": ok("It.", "Document") }))
        }
        ("GET", "/api/status") => {
            ("How the stream is.", json!({ "responses": ok("How it is.", "Status") }))
        }
        ("GET", "/api/decisions") => ("What is in force, or was.", decisions()),
        ("GET", "/api/why/{target}") => ("How a target stands, rule by rule.", why()),
        ("POST", "/api/block") => ("Keep an address or a range out.", order("Hold")),
        ("POST", "/api/lock") => ("Keep an account closed.", order("Hold")),
        ("POST", "/api/require_2fa") => ("Demand a second factor of an account.", order("Hold")),
        ("POST", "/api/lift") => ("End everything that is active against a target.", order("Lift")),
        ("GET", "/api/allow") => (
            "The allowlist, and who is spared for a while after a lift.",
            json!({ "responses": ok("It.", "Allowlist") }),
        ),
        ("POST", "/api/allow") => {
            ("Add an entry to the allowlist, which also lifts what it covers.", order("Allow"))
        }
        ("POST", "/api/disallow") => {
            ("Take an entry that was added by hand away again.", order("Disallow"))
        }
        ("DELETE", "/api/disallow") => {
            let mut operation = order("Disallow");
            if let Some(operation) = operation.as_object_mut() {
                operation.remove("requestBody");
            }
            if let Some(responses) = operation["responses"].as_object_mut() {
                responses.remove("415");
            }
            let mut parameters = vec![
                query("target", "An address, a range or an account.", &reference("TargetText")),
                query("because", "Why.", &reference("Because")),
            ];
            parameters.iter_mut().for_each(|parameter| parameter["required"] = json!(true));
            operation["parameters"] = json!(parameters);
            ("Take an entry that was added by hand away again.", operation)
        }
        (_, path) => return outside(path),
    })
}

/// What others ask for, in words of others.
fn outside(path: &str) -> Option<(&'static str, Value)> {
    Some(match path {
        "/v1/decisions" => {
            let mut responses = ok("What is decided about it; null if nothing is.", "LapiLive");
            responses["500"] = json!({
                "description": "A filter cannot be read.",
                "content": content("Forbidden")
            });
            let parameters = texts(&[
                ("ip", "An address."),
                ("range", "A range."),
                ("scope", "The kind of `value`."),
                ("scopes", "Kinds of targets, with commas."),
                ("value", "The value of a target."),
                ("type", "A remediation."),
                ("origins", "Origins, with commas."),
            ]);
            (
                "CrowdSec: what is decided about one target.",
                json!({ "parameters": parameters, "responses": responses }),
            )
        }
        "/v1/decisions/stream" => {
            let parameters = texts(&[
                ("startup", "`true` for the whole list, else what is new."),
                ("scopes", "Kinds of targets, with commas; ip,range without it."),
                ("origins", "Origins, with commas."),
                ("scenarios_containing", "Words, with commas, of which a rule's name has one."),
                ("scenarios_not_containing", "Words that it has none of."),
            ]);
            let responses = ok("What began and what ended.", "LapiStream");
            (
                "CrowdSec: what began and what ended since the last call.",
                json!({ "parameters": parameters, "responses": responses }),
            )
        }
        "/v1/usage-metrics" => (
            "CrowdSec: figures of a bouncer, which are taken and not kept.",
            json!({ "responses": { "201": { "description": "They are taken." } } }),
        ),
        path if path.starts_with("/blocklist") => {
            let words = |all: &[&str], usual: &str| json!({ "type": "string", "enum": all, "default": usual });
            let parameters = [
                query("family", "IPv4, IPv6 or both.", &words(&["4", "6", "all"], "all")),
                query("format", "For whom.", &words(&["plain", "nginx", "haproxy"], "plain")),
            ];
            let mut responses = plain("One address or range per line.");
            responses["304"] = json!({ "description": "It is what was fetched before." });
            (
                "What is blocked, as a file for firewalls.",
                json!({ "parameters": parameters, "responses": responses }),
            )
        }
        _ => return None,
    })
}

fn decisions() -> Value {
    let words = |all: Vec<&str>| json!({ "type": "string", "enum": all });
    let mut responses = ok("The decisions.", "Decisions");
    responses["404"] = error("There is no history.");
    responses["422"] = error("The target means nobody.");
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT });
    json!({
        "parameters": [
            query("history", "Also those that have ended, the newest first.", &json!({ "type": "boolean", "default": false })),
            query("limit", "How many at most; the newest are given, and `total` says how many there are.", &limit),
            query("action", "Only these.", &words(ACTIONS.iter().map(|(name, _)| *name).collect())),
            query("mode", "Only these.", &words(MODES.iter().map(|(name, _)| *name).collect())),
            query("target", "Only what is about this target, or a range around or in it.", &reference("TargetText")),
            query("rule", "Only what this rule started.", &json!({ "type": "string" })),
        ],
        "responses": responses
    })
}

fn why() -> Value {
    let mut responses = ok("How it stands.", "Why");
    responses["404"] = error("There is no such path.");
    responses["422"] = error("The target means nobody.");
    json!({
        "parameters": [{
            "name": "target",
            "in": "path",
            "required": true,
            "description": "An address, a range or an account; a `/` in it is written %2F.",
            "schema": reference("TargetText")
        }],
        "responses": responses
    })
}

/// An object with these members, all of them needed but those with a `?` behind their names.
fn object(members: &[(&str, Value)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in members {
        let bare = name.trim_end_matches('?');
        properties.insert(bare.to_owned(), schema.clone());
        if bare == *name {
            required.push(bare);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// The same, and nothing else.
fn closed(members: &[(&str, Value)]) -> Value {
    let mut object = object(members);
    object["additionalProperties"] = json!(false);
    object
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn schemas() -> Value {
    let mut all = sent();
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), answered()) {
        all.extend(more);
    }
    all
}

/// What is sent, and errors.
fn sent() -> Value {
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean" });
    let duration = |least: Micros| {
        json!({
            "type": "string",
            "description": format!(
                "A number and a unit, as in 30s, 5m, 1h, 24h, 30d, 2w, or several from the larger to the smaller, as in 1h30m; from {} to {}.",
                time::format_duration(least),
                time::format_duration(LASTING.1)
            ),
            "minLength": 2,
            "pattern": r"^\s*([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?\s*$"
        })
    };
    let optional = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let sought = json!({ "anyOf": [reference("TargetText"), reference("TargetParts")] });
    let because = reference("Because");
    json!({
        "Error": object(&[("error", text.clone()), ("reason", text.clone())]),
        "Forbidden": object(&[("message", text.clone())]),
        "Up": object(&[("status", json!({ "const": "up" }))]),
        "Ready": object(&[("status", json!({ "const": "ready" }))]),
        "Document": json!({ "type": "object" }),
        "TargetText": {
            "type": "string",
            "description": r"An address, a range, a name or e-mail address, or `user_id:` and an id; what cannot be seen stands in it as `\u{200d}`.",
            "minLength": 1,
            "maxLength": TEXT_MAX,
            "pattern": r"\S",
            "examples": ["203.0.113.7", "203.0.113.0/24", "mallory@example.org", "user_id:7f6c"]
        },
        "TargetParts": closed(&[
            ("kind", json!({ "type": "string", "enum": KINDS })),
            (
                "value",
                json!({ "type": "string", "minLength": 1, "maxLength": TEXT_MAX, "pattern": r"\S" }),
            ),
        ]),
        "Target": object(&[("kind", text.clone()), ("value?", text.clone())]),
        "Because": {
            "type": "string",
            "description": "Why, for whoever reads it later; no control characters.",
            "minLength": 1,
            "maxLength": BECAUSE_MAX,
            "pattern": r"\S"
        },
        "Hold": closed(&[
            ("target", sought.clone()),
            ("for", duration(LASTING.0)),
            ("because", because.clone()),
            ("force?", flag.clone()),
        ]),
        "Lift": closed(&[
            ("target", sought.clone()),
            ("because", because.clone()),
            ("grace?", optional(duration(0))),
        ]),
        "Allow": closed(&[
            ("target", sought.clone()),
            ("because", because.clone()),
            ("for?", optional(duration(LASTING.0))),
        ]),
        "Disallow": closed(&[("target", sought), ("because", because)]),
    })
}

/// What is answered.
fn answered() -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let flag = json!({ "type": "boolean" });
    let time = json!({ "type": "string", "format": "date-time" });
    let target = || reference("Target");
    json!({
        "Action": {
            "type": "object",
            "description": "An action line (schema 1).",
            "required": ["schema", "id", "time", "op", "action", "target", "rule", "pack", "mode", "reason"]
        },
        "Decision": object(&[
            ("id", text.clone()),
            ("action", text.clone()),
            ("mode", text.clone()),
            ("target", target()),
            ("rule", text.clone()),
            ("pack", text.clone()),
            ("started", time.clone()),
            ("until?", time.clone()),
            ("ended?", time.clone()),
            ("crossings?", count.clone()),
            ("hosts?", list(&text)),
            ("reason?", text.clone()),
        ]),
        "Decisions": object(&[
            ("decisions", list(&reference("Decision"))),
            ("total", count.clone()),
        ]),
        "Carried": object(&[
            ("actions", list(&reference("Action"))),
            ("lifted", list(&reference("Decision"))),
        ]),
        "Counter": object(&[
            ("rule", text.clone()),
            ("pack", text.clone()),
            ("when", text.clone()),
            ("count", count.clone()),
            ("needed", count.clone()),
            ("window_s", json!({ "type": "integer" })),
            ("first_seen?", time.clone()),
            ("last_seen?", time.clone()),
            ("oldest_expires_s?", count.clone()),
            ("target?", target()),
            ("users?", reference("Tally")),
            ("ips?", reference("Tally")),
            ("request_ids?", reference("Tally")),
            ("reasons?", json!({ "type": "object", "additionalProperties": count })),
            ("sentence", text.clone()),
        ]),
        "Tally": object(&[("distinct", count.clone()), ("sample", list(&text))]),
        "Why": object(&[
            ("target", target()),
            ("counters", list(&reference("Counter"))),
            ("guard?", text.clone()),
            ("decisions", list(&reference("Decision"))),
        ]),
        "Allowlist": object(&[("spared", list(&reference("Spared")))]),
        "Spared": object(&[
            ("target", target()),
            ("by", json!({ "type": "string", "enum": ["configuration", "hand", "lift"] })),
            ("because?", text.clone()),
            ("until?", time.clone()),
        ]),
        "Sink": object(&[
            ("name", text.clone()),
            ("state", text.clone()),
            ("waiting", count.clone()),
            ("delivered", count.clone()),
            ("refused", count.clone()),
            ("dropped", count.clone()),
            ("why?", text.clone()),
        ]),
        "Status": object(&[
            ("version", text.clone()),
            ("started", time.clone()),
            ("ready", flag),
            ("not_ready?", text.clone()),
            ("clock?", time),
            ("delay_s?", json!({ "type": "number" })),
            ("sinks", list(&reference("Sink"))),
        ]),
        "LapiDecision": object(&[
            ("origin", text.clone()),
            ("type", text.clone()),
            ("scope", text.clone()),
            ("value", text.clone()),
            ("duration", text.clone()),
            ("scenario", text),
        ]),
        "LapiLive": { "anyOf": [{ "type": "null" }, list(&reference("LapiDecision"))] },
        "LapiStream": object(&[
            ("new", list(&reference("LapiDecision"))),
            ("deleted", list(&reference("LapiDecision"))),
        ]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All references of a document.
    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(to) if name == "$ref" => into.push(to.clone()),
                        _ => references(value, into),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, into)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = document();
        for route in ROUTES {
            assert!(said(route).is_some(), "{} {} is not described", route.method, route.path);
            let operation = &document["paths"][route.path][route.method.to_lowercase()];
            assert!(operation["summary"].is_string(), "{} {}", route.method, route.path);
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let told: Vec<_> = parameters
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            if let Some(known) = route.query {
                assert_eq!(told, known, "{} {}", route.method, route.path);
            }
        }
        let mut ids = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let method = method.to_uppercase();
                assert!(super::super::routes::find(&method, path).is_some(), "{method} {path}");
                ids.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "{ids:?}");
    }

    #[test]
    fn what_is_referred_to_is_there_and_used() {
        let document = document();
        let mut all = Vec::new();
        references(&document, &mut all);
        for reference in &all {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            let reference = format!("#/components/schemas/{name}");
            assert!(all.contains(&reference), "{name} is used nowhere");
        }
    }
}
