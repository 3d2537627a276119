//! What the platform's edge says of a request outweighs what the application logs and what text says;
//! and nobody but the source can say it.

use crate::support::failed_logins;
use portcullis::action::Action;
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::engine::summary::Marks;
use portcullis::source::Batch;
use std::net::IpAddr;

const EDGE: &str = "198.51.100.77";
const OWN: &str = "203.0.113.9";

/// The address that is blocked after these lines, and their marks.
fn blocked(text: &str, edge: Option<&str>) -> (Option<String>, Marks) {
    let assembly = Assembly::new(&Settings::default(), &[]).unwrap();
    let mut engine = assembly.engine();
    let edge: Option<IpAddr> = edge.map(|edge| edge.parse().unwrap());
    let edges = text.lines().map(|_| edge).collect();
    let batch = Batch { bytes: text.as_bytes().to_vec(), edges, ..Batch::default() };
    engine.apply_batch(assembly.scanner.scan(batch), None);
    let actions = engine.take_actions();
    let block = |action: &&Action| action.action == "block";
    let target = actions.iter().find(block).and_then(|block| block.target.value.clone());
    (target, engine.core.summary.marks.clone())
}

#[test]
fn the_edge_wins_and_a_disagreement_is_a_conflict() {
    let text = failed_logins(21, 1, OWN);
    let (target, marks) = blocked(&text, None);
    assert_eq!((target.as_deref(), marks.conflict), (Some(OWN), 0));
    let (target, marks) = blocked(&text, Some(EDGE));
    assert_eq!((target.as_deref(), marks.conflict), (Some(EDGE), 21));
    let (target, marks) = blocked(&text, Some(OWN));
    assert_eq!((target.as_deref(), marks.conflict), (Some(OWN), 0));
}

#[test]
fn fields_that_disagree_with_each_other_do_not_hide_the_edge() {
    let one = format!(r#""ip_address":"{OWN}","#);
    let structured =
        failed_logins(21, 1, EDGE).replace(r#""module""#, &format!(r#"{one}"module""#));
    let (target, marks) = blocked(&structured, Some(EDGE));
    assert_eq!((target.as_deref(), marks.conflict), (Some(EDGE), 21));
    // Two addresses in fields: without the edge nobody is blocked, with it the right one is.
    let two = structured.replace(&one, &format!(r#"{one}"client_ip":"192.0.2.1","#));
    assert_eq!(blocked(&two, None).0, None);
    assert_eq!(blocked(&two, Some(EDGE)).0.as_deref(), Some(EDGE));
}

#[test]
fn an_edge_that_saw_only_a_proxy_says_nothing() {
    // What the application knows then counts, as if the edge had said nothing.
    let (target, marks) = blocked(&failed_logins(21, 1, OWN), Some("100.64.0.7"));
    assert_eq!((target.as_deref(), marks.conflict, marks.proxy_hidden), (Some(OWN), 0, 0));
    let (target, marks) = blocked(&failed_logins(21, 1, "10.0.0.1"), Some("100.64.0.7"));
    assert_eq!((target, marks.proxy_hidden), (None, 21));
}

#[test]
fn no_line_can_speak_for_the_edge() {
    // A merged request body may hold any key.
    for key in ["srcIp", "edge", "edge_ip", "edges"] {
        let forged = failed_logins(21, 1, OWN)
            .replace(r#""module""#, &format!(r#""ip_address":"{OWN}","{key}":"{EDGE}","module""#));
        let (target, marks) = blocked(&forged, None);
        assert_eq!(marks.proxy_hidden, 0);
        match key {
            // A well-known name of the address: two that differ choose nobody.
            "srcIp" => assert_eq!(target, None),
            _ => assert_eq!(target.as_deref(), Some(OWN), "{key}"),
        }
    }
}
