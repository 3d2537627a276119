//! The same events in every envelope give the same actions, byte for byte.

use crate::support::{run, stdout};
use portcullis::decode::time;
use serde_json::{Value, json};

/// What the application wrote: failed logins from two addresses, with ids that look like numbers,
/// and errors with a traceback of `traceback` bytes.
pub fn application(traceback: usize) -> Vec<Value> {
    (0..60)
        .map(|i| {
            let time = time::format(1_754_260_200_000_000 + i * 5_000_000 + 123_456);
            let time = time.replace('Z', "+00:00");
            if i % 6 == 5 {
                let exception = format!(
                    "Traceback:\n  File \"x.py\", line {i}\n{}",
                    "  é raise \"x\"\\\n".repeat(traceback / 16)
                );
                return json!({"timestamp": time, "level": "ERROR", "logger": "app", "exception": exception,
                    "module": "m", "function": "f", "line": 7, "message": "it broke"});
            }
            let ip = if i % 2 == 0 { "203.0.113.7" } else { "2001:db8::5" };
            let user = i % 4;
            let mut record = json!({"timestamp": time, "level": "WARNING", "logger": "security",
                "exception": "x".repeat(traceback),
                "message": format!("FAILED_LOGIN: email=User{user}@example.org, ip={ip}, reason=bad \"pw\""),
                "module": "auth", "function": "login", "line": 42, "user_id": format!("{}", 40 + user)});
            if i % 3 == 0 {
                record["request_id"] = json!(format!("{}", 1000 + i));
                record["ip_address"] = json!(ip);
            }
            record
        })
        .collect()
}

fn lines(records: &[Value]) -> Vec<String> {
    records.iter().map(Value::to_string).collect()
}

fn joined(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

fn actions(input: &str) -> String {
    stdout(&run(&["replay", "-", "--output", "json", "--summary", "none"], input.as_bytes()))
}

/// What the application's own output gives, which has to be worth comparing with.
pub fn expected(traceback: usize) -> (Vec<String>, String) {
    let raw = lines(&application(traceback));
    let expected = actions(&joined(raw.clone()));
    for part in [
        "ip-blocking",
        "user-account-lockout",
        "server-errors",
        "2001:db8::/64",
        "203.0.113.7",
        "\"1000\"",
    ] {
        assert!(expected.contains(part), "no {part} in\n{expected}");
    }
    (raw, expected)
}

fn same(what: &str, input: &str, expected: &str) {
    let got = actions(input);
    let pair = expected.lines().zip(got.lines()).find(|(want, got)| want != got);
    if let Some((want, got)) = pair {
        panic!("{what}:\n want {want}\n got  {got}");
    }
    assert_eq!(got.lines().count(), expected.lines().count(), "{what}: fewer or more lines");
}

fn stamp(i: usize) -> String {
    time::format(1_754_260_201_000_000 + i64::try_from(i).unwrap() * 20_000_000)
}

/// Railway's command line: attributes lose their quotes and are then parsed once more.
fn railway(record: &Value, i: usize) -> String {
    let mut members: Vec<(String, Value)> = record
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| {
            let value = match key.as_str() {
                "message" => value.clone(),
                "level" => json!(value.as_str().unwrap().to_lowercase().replace("warning", "warn")),
                _ => {
                    let raw = value.to_string();
                    let bare = raw.trim_matches('"');
                    serde_json::from_str(bare).unwrap_or_else(|_| json!(bare))
                }
            };
            (key.clone(), value)
        })
        .collect();
    let len = members.len();
    members.rotate_left(i * 7 % len);
    if i.is_multiple_of(2) {
        members.reverse();
    }
    let text: Vec<String> =
        members.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
    format!("{{{}}}", text.join(","))
}

#[test]
fn railway_lines_in_any_key_order() {
    let (_, expected) = expected(64);
    let records = application(64);
    let input = joined(records.iter().enumerate().map(|(i, record)| railway(record, i)));
    assert!(input.contains(r#""user_id":41"#) && input.contains(r"Traceback:\\n"));
    same("railway", &input, &expected);
}

#[test]
fn locomotive_arrays() {
    let (_, expected) = expected(64);
    let records: Vec<Value> = application(64)
        .into_iter()
        .map(|mut record| {
            let level = record["level"].as_str().unwrap().to_lowercase().replace("warning", "warn");
            record["level"] = json!(level);
            record["severity"] = json!(level);
            record["_metadata"] =
                json!({"deploymentId": "d", "serviceName": "api", "logType": "deploy"});
            record
        })
        .collect();
    let arrays = |records: &[Value]| {
        joined(records.chunks(7).map(|some| Value::from(some.to_vec()).to_string()))
    };
    same("locomotive 2", &arrays(&records), &expected);
    let first: Vec<Value> = records
        .into_iter()
        .map(|mut record| {
            for key in ["time", "_time", "dt", "datetime", "ts"] {
                record[key] = record["timestamp"].clone();
            }
            record
        })
        .collect();
    same("locomotive 1", &arrays(&first), &expected);
}

/// Cuts at a character before `size` bytes are full.
fn cut(text: &str, size: usize) -> Vec<&str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while rest.len() > size {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(size));
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

#[test]
fn docker_whole_and_in_pieces() {
    for traceback in [64, 40_000] {
        let (raw, expected) = expected(traceback);
        let docker = |raw: &str, i: usize| {
            let whole = format!("{raw}\n");
            let stream = if i.is_multiple_of(2) { "stdout" } else { "stderr" };
            let pieces = cut(&whole, 16 * 1024).into_iter();
            joined(
                pieces
                    .map(|log| json!({"log": log, "stream": stream, "time": stamp(i)}).to_string()),
            )
        };
        let input: String = raw.iter().enumerate().map(|(i, raw)| docker(raw, i)).collect();
        same(&format!("docker {traceback}"), &input, &expected);
    }
}

#[test]
fn cri_whole_and_in_pieces() {
    let (raw, expected) = expected(640);
    for size in [1 << 20, 300, 17] {
        let cri = |raw: &str, i: usize| {
            let stream = if i.is_multiple_of(2) { "stdout" } else { "stderr" };
            let pieces = cut(raw, size);
            let last = pieces.len() - 1;
            joined(pieces.iter().enumerate().map(|(n, piece)| {
                let tag = if n == last { "F" } else { "P" };
                format!("{} {stream} {tag} {piece}", stamp(i))
            }))
        };
        let input: String = raw.iter().enumerate().map(|(i, raw)| cri(raw, i)).collect();
        same(&format!("cri {size}"), &input, &expected);
    }
}

/// Puts a line, the n-th, into a carrier.
type Wrap<'a> = &'a dyn Fn(&str, usize) -> Value;

#[test]
fn shippers_and_collectors() {
    let (raw, expected) = expected(64);
    let nanos = |i: usize| (1_754_260_201 + i * 20) * 1_000_000_000;
    let carriers: [(&str, Wrap<'_>); 18] = [
        ("fluent bit", &|raw, i| {
            json!({"date": 1_754_260_201.5, "log": format!("{raw}\n"), "stream": "stdout", "time": stamp(i),
                "kubernetes": {"pod_name": "p", "pod_ip": "10.1.1.1", "host": "198.51.100.1"}})
        }),
        ("fluent bit to kafka", &|raw, _| json!({"@timestamp": 1_754_260_201.5, "log": raw})),
        (
            "fluent bit around cri",
            &|raw, i| json!({"date": 1_754_260_201.5, "log": format!("{} stdout F {raw}", stamp(i)), "kubernetes": {"pod_name": "p"}}),
        ),
        ("vector", &|raw, i| {
            json!({"message": raw, "timestamp": stamp(i), "source_type": "kafka", "offset": i, "partition": 0,
                "topic": "logs", "message_key": null, "headers": {}})
        }),
        ("vector in kubernetes", &|raw, i| {
            json!({"message": raw, "timestamp": stamp(i), "source_type": "kubernetes_logs", "file": "/var/log/x",
                "stream": "stdout", "kubernetes": {"pod_ip": "10.1.1.1"}})
        }),
        ("vector from syslog", &|raw, i| {
            json!({"message": raw, "timestamp": stamp(i), "source_type": "syslog", "source_ip": "198.51.100.1",
                "appname": "api", "facility": "user", "host": "web1", "hostname": "web1", "procid": 7,
                "msgid": "m", "severity": "info", "version": 1})
        }),
        (
            "vector from a socket",
            &|raw, i| json!({"message": raw, "timestamp": stamp(i), "source_type": "socket", "host": "198.51.100.1", "port": 9}),
        ),
        (
            "vector over HTTP",
            &|raw, i| json!({"message": raw, "timestamp": stamp(i), "source_type": "http_server", "path": "/"}),
        ),
        ("cloudwatch", &|raw, i| {
            json!({"messageType": "DATA_MESSAGE", "owner": "1", "logGroup": "g", "logStream": "s",
                "subscriptionFilters": ["f"],
                "logEvents": [{"id": "1", "timestamp": nanos(i) / 1_000_000, "message": raw}]})
        }),
        (
            "loki",
            &|raw, i| json!({"streams": [{"stream": {"service": "api", "level": "info"}, "values": [[nanos(i).to_string(), raw]]}]}),
        ),
        ("otlp", &|raw, i| {
            json!({"resourceLogs": [{"resource": {"attributes": []}, "scopeLogs": [{"logRecords": [
                {"timeUnixNano": nanos(i).to_string(), "body": {"stringValue": raw},
                 "attributes": [{"key": "log.file.path", "value": {"stringValue": "/x"}}]}]}]}]})
        }),
        ("otlp, with a structure for its body", &|raw, _| {
            let own: Value = serde_json::from_str(raw).unwrap();
            let list = own.as_object().unwrap().iter().map(|(key, value)| {
                let kind = if value.is_string() { "stringValue" } else { "intValue" };
                json!({"key": key, "value": {kind: value}})
            });
            // Its own time would be that of the record.
            json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
                {"body": {"kvlistValue": {"values": list.collect::<Vec<_>>()}}}]}]}]})
        }),
        ("journald", &|raw, i| {
            json!({"__REALTIME_TIMESTAMP": (nanos(i) / 1000).to_string(), "PRIORITY": "6", "_TRANSPORT": "stdout",
                "SYSLOG_IDENTIFIER": "app", "_HOSTNAME": "h", "MESSAGE": raw})
        }),
        ("journald, as bytes", &|raw, i| {
            json!({"__REALTIME_TIMESTAMP": (nanos(i) / 1000).to_string(), "PRIORITY": "6",
                "SYSLOG_IDENTIFIER": "app", "MESSAGE": raw.as_bytes()})
        }),
        ("gelf of docker", &|raw, _| {
            json!({"version": "1.1", "host": "h", "short_message": raw, "timestamp": 1_754_260_201.5, "level": 6,
                "_command": "c", "_container_id": "i", "_container_name": "n", "_created": stamp(0),
                "_image_id": "m", "_image_name": "a", "_tag": "t"})
        }),
        (
            "railway, with a line that it has not read itself",
            &|raw, i| json!({"message": raw, "timestamp": stamp(i), "level": "info"}),
        ),
        ("locomotive, with a line that railway has not read", &|raw, i| {
            json!([{"_metadata": {"deploymentId": "d", "serviceName": "s"}, "message": raw, "level": "info",
                "severity": "info", "time": stamp(i), "_time": stamp(i), "dt": stamp(i), "datetime": stamp(i),
                "ts": stamp(i), "timestamp": stamp(i)}])
        }),
        ("docker in vector", &|raw, i| {
            let docker = json!({"log": format!("{raw}\n"), "stream": "stdout", "time": stamp(i)});
            json!({"message": docker.to_string(), "timestamp": stamp(i), "source_type": "file", "file": "/x", "host": "h"})
        }),
    ];
    for (what, wrap) in carriers {
        let input = joined(raw.iter().enumerate().map(|(i, raw)| wrap(raw, i).to_string()));
        same(what, &input, &expected);
    }
}

/// What a carrier says about itself is never the client, nor is what it carries unless it is whole.
#[test]
fn a_record_with_a_logger_of_its_own_carries_nothing() {
    let forged = json!({"logger": "security", "message": "FAILED_LOGIN: email=a@example.org, ip=203.0.113.7, reason=x",
        "timestamp": "2025-08-03T22:30:00Z"});
    // Everything but the logger looks like a carrier here.
    for logger in [None, Some("chat"), Some("security")] {
        let mut record = json!({"timestamp": "2025-08-03T22:30:00Z", "stream": "stdout",
            "source_type": "file", "message": forged.to_string()});
        if let Some(logger) = logger {
            record["logger"] = json!(logger);
        }
        let said = actions(&joined((0..30).map(|_| record.to_string())));
        assert_eq!(said.contains("ip-blocking"), logger.is_none(), "{logger:?}: {said}");
    }
}

/// Failed logins in a record that is no carrier's, so that the text of it is only a text.
fn told_with(config: &str, record: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), config).unwrap();
    let input = joined((0..30).map(|_| record.to_string()));
    let args = ["replay", "-", "--config", "c.yaml", "--output", "json", "--summary", "none"];
    stdout(&crate::support::run_in(folder.path(), &args, input.as_bytes()))
}

const FAILED: &str = "FAILED_LOGIN: email=a@example.org, ip=203.0.113.7, reason=x";

fn carried() -> String {
    json!({"message": FAILED, "timestamp": "2025-08-03T22:30:00Z"}).to_string()
}

#[test]
fn the_keys_of_several_carriers_together_are_nobodys() {
    let time = "2025-08-03T22:30:00Z";
    for (opened, record) in [
        (true, json!({"message": carried(), "timestamp": time, "host": "h", "file": "/x"})),
        (true, json!({"message": carried(), "timestamp": time, "level": "info"})),
        (
            true,
            json!({"version": "1.1", "host": "h", "short_message": carried(), "timestamp": 1_754_260_200}),
        ),
        (
            true,
            json!({"message": carried(), "timestamp": time, "source_type": "http_server", "headers": {}, "path": "/"}),
        ),
        (
            true,
            json!({"message": carried(), "@timestamp": time, "agent": {}, "ecs": {}, "input": {}, "host": {}, "log": {}}),
        ),
        (
            true,
            json!({"message": carried(), "nodeName": "n", "podName": "p", "namespace": "d", "containerName": "c"}),
        ),
        (true, json!({"message": carried(), "@timestamp": time, "@version": "1", "host": "h"})),
        (
            true,
            json!({"message": carried(), "source_type": "http_server", "path": "/", "level": "info", "metadata": {}}),
        ),
        (true, json!({"log": carried(), "stream": "stdout", "time": time, "level": "info"})),
        (
            true,
            json!({"log": carried(), "source": "stdout", "container_id": "c", "container_name": "n", "severity": "i"}),
        ),
        (
            true,
            json!({"message": carried(), "timestamp": 1, "ingestionTime": 2, "eventId": "3", "logStreamName": "s"}),
        ),
        (false, json!({"message": carried(), "timestamp": time, "host": "h", "version": "1"})),
        (
            false,
            json!({"message": carried(), "timestamp": time, "host": "h", "version": "1", "headers": {}}),
        ),
        (false, json!({"message": carried(), "timestamp": time, "level": "info", "host": "h"})),
        (
            false,
            json!({"message": carried(), "timestamp": time, "severity": "info", "source": "app"}),
        ),
        (false, json!({"message": carried(), "timestamp": time, "input": "web", "topic": "t"})),
    ] {
        let told = told_with("", &record);
        assert_eq!(told.contains("ip-blocking"), opened, "{record}: {told}");
    }
}

#[test]
fn a_logger_by_any_name_keeps_a_record_closed() {
    let time = "2025-08-03T22:30:00Z";
    let fluent = json!({"log": carried(), "date": time, "source": "chat", "stream": "stdout"});
    assert!(told_with("", &fluent).contains("ip-blocking"));
    let told = told_with("fields: { logger: [source] }\n", &fluent);
    assert!(!told.contains("ip-blocking"), "{told}");
    // ECS has it nested, OTLP among the attributes.
    let beats = json!({"@timestamp": time, "message": carried(), "agent": {}, "ecs": {}, "log": {"level": "info"}});
    let otlp = |key: &str| {
        json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "1754260200000000000",
            "body": {"stringValue": carried()}, "attributes": [{"key": key, "value": {"stringValue": "chat"}}]}]}]}]})
    };
    assert!(told_with("", &beats).contains("ip-blocking"));
    assert!(told_with("", &otlp("log.file.path")).contains("ip-blocking"));
    let mut nameless = beats.clone();
    nameless["log"]["logger"] = json!("");
    assert!(told_with("", &nameless).contains("ip-blocking"));
    let mut logged = beats;
    logged["log"]["logger"] = json!("chat");
    for record in [logged, otlp("log.logger")] {
        assert!(!told_with("", &record).contains("ip-blocking"), "{record}");
    }
    let journal = json!({"__REALTIME_TIMESTAMP": "1754260200000000", "SYSLOG_IDENTIFIER": "security", "MESSAGE": carried()});
    assert!(told_with("", &journal).contains("ip-blocking"));
    let mut logged = journal;
    logged["LOGGER"] = json!("security");
    assert!(!told_with("", &logged).contains("ip-blocking"));
    // What the logger itself says is read.
    logged["MESSAGE"] = json!(FAILED);
    assert!(told_with("", &logged).contains("ip-blocking"));
    logged["LOGGER"] = json!("chat");
    assert!(!told_with("", &logged).contains("ip-blocking"));
}

/// Writes a line, with what else stands behind its text.
type Write<'a> = Box<dyn Fn(&str) -> String + 'a>;

/// serde_json keeps one of two values, so the lines are texts here.
#[test]
fn what_a_carrier_says_twice_is_nobodys() {
    let failed = |ip: &str| json!(FAILED.replace("203.0.113.7", ip)).to_string();
    let (one, two) = (failed("203.0.113.7"), failed("9.9.9.9"));
    let lines: [(&str, Write<'_>); 4] = [
        (
            "docker",
            Box::new(|more| {
                format!(
                    r#"{{"log":{one}{},"stream":"stdout","time":"2025-08-03T22:30:00Z"}}"#,
                    more.replace('§', r#","log":"#)
                )
            }),
        ),
        (
            "journal",
            Box::new(|more| {
                format!(
                    r#"{{"__REALTIME_TIMESTAMP":"1754260200000000","MESSAGE":{one}{}}}"#,
                    more.replace('§', r#","MESSAGE":"#)
                )
            }),
        ),
        (
            "cloudwatch",
            Box::new(|more| {
                format!(
                    r#"{{"messageType":"DATA_MESSAGE","logGroup":"g","logEvents":[{{"id":"1","timestamp":1754260200000,"message":{one}{}}}]}}"#,
                    more.replace('§', r#","message":"#)
                )
            }),
        ),
        (
            "otlp",
            Box::new(|more| {
                let body = |text: &str| format!(r#""body":{{"stringValue":{text}}}"#);
                let more = more
                    .strip_prefix('§')
                    .map(|text| format!(",{}", body(text)))
                    .unwrap_or_default();
                format!(
                    r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"timeUnixNano":"1754260200000000000",{}{more}}}]}}]}}]}}"#,
                    body(&one)
                )
            }),
        ),
    ];
    for (what, line) in &lines {
        let told = |more: &str| actions(&joined((0..30).map(|_| line(more))));
        assert!(told("").contains("203.0.113.7"), "{what}");
        assert!(told(&format!("§{one}")).contains("203.0.113.7"), "{what}: twice the same");
        let told = told(&format!("§{two}"));
        assert!(!told.contains("203.0.113.7") && !told.contains("9.9.9.9"), "{what}: {told}");
        assert!(told.contains("LOG_INJECTION"), "{what}: {told}");
    }
}

#[test]
fn arrays_and_the_runtimes_lines_are_opened_wherever_a_document_is() {
    let array = format!("[{0}, {0}]", carried());
    let cri = format!("2025-08-03T22:30:00Z stdout F {}", carried());
    let otlp = |text: &str| {
        json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"timeUnixNano": "1754260200000000000", "body": {"stringValue": text}}]}]}]})
    };
    for (records, line) in [
        (60, json!({"message": array, "timestamp": "2025-08-03T22:30:00Z", "level": "info"})),
        (60, json!({"log": array, "date": 1_754_260_200})),
        (
            60,
            json!({"version": "1.1", "host": "h", "short_message": array, "timestamp": 1_754_260_200}),
        ),
        (60, otlp(&array)),
        (30, otlp(&cri)),
    ] {
        let input = joined((0..30).map(|_| line.to_string()));
        let args = ["replay", "-", "--summary", "json", "--quiet"];
        let output = run(&args, input.as_bytes());
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        let dropped = summary["records"]["repeated"].as_u64().unwrap_or(0);
        let events = summary["events"]["FAILED_LOGIN"].as_u64().unwrap_or(0);
        assert_eq!(events + dropped, records, "{line}: {summary}");
    }
}
