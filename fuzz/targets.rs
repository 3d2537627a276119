//! What every fuzz target does with its bytes, and what must then be true. Shared by the fuzzer and
//! by the test that runs the seeds, so that a seed never goes stale.

use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decode::addr::{self, Nets, NeverBlock};
use portcullis::decode::time::{self, When, Zone};
use portcullis::decode::{DecodeConfig, decode, envelope, json};
use portcullis::detect::condition;
use portcullis::engine::scan::{Findings, What};
use portcullis::pattern::template::Template;
use portcullis::source::lines::LineSplitter;
use std::sync::OnceLock;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets by name; `seeds/` has a folder for each.
pub const TARGETS: [Target; 8] = [
    ("lines", lines),
    ("json", json_text),
    ("times", times),
    ("addresses", addresses),
    ("templates", templates),
    ("conditions", conditions),
    ("decode", record),
    ("events", events),
];

/// Where lines end does not depend on how their bytes arrived.
pub fn lines(data: &[u8]) {
    let [max_line, step, rest @ ..] = data else { return };
    let (max_line, step) = (usize::from(*max_line).max(1), usize::from(*step).max(1));
    let split = |step: usize| {
        let mut splitter = LineSplitter::new(0, max_line);
        let mut batches: Vec<_> = rest.chunks(step).flat_map(|c| splitter.push(c)).collect();
        batches.extend(splitter.finish());
        let each = batches.iter().flat_map(|b| b.lines().map(|l| (l.to_vec(), b.oversized)));
        each.collect::<Vec<_>>()
    };
    let whole = split(rest.len().max(1));
    assert_eq!(whole, split(step));
    let expected = rest.split(|b| *b == b'\n').count() - usize::from(rest.ends_with(b"\n"));
    assert_eq!(whole.len(), if rest.is_empty() { 0 } else { expected });
    assert!(whole.iter().all(|(line, _)| line.len() <= max_line));
}

/// Whatever a strict parser reads, the lenient one reads without bending anything.
pub fn json_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(document) = json::read(&text) {
        assert!(!document.values.is_empty());
    }
}

/// A time that can be read can be written and read again.
pub fn times(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let zone = Zone::default();
    let _ = time::parse_number(&text);
    let _ = time::parse_duration(&text);
    if let Some((_, length)) = time::parse_prefix(&text, &zone) {
        assert!(text.is_char_boundary(length));
    }
    match time::parse(&text, &zone) {
        Some(When::At(at)) => {
            assert_eq!(time::parse(&time::format(at), &zone), Some(When::At(at)));
        }
        Some(When::Twice { first, again }) => assert_eq!(zone.again(first), Some(again)),
        Some(When::Yearless(yearless)) => {
            let _ = yearless.nearest(1_754_260_200_000_000, &zone);
        }
        None => {}
    }
}

/// A key is its own key, and is never long.
pub fn addresses(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(ip) = addr::parse_ip(&text) {
        assert_eq!(addr::parse_ip(&ip.to_string()), Some(ip));
        assert_eq!(addr::canonical(ip), ip);
    }
    let _ = addr::parse_ip_port_last(&text);
    if let Some(user) = addr::normalize_user(&text) {
        assert_eq!(addr::normalize_user(&user).as_ref(), Some(&user));
        assert!(user.len() <= 256);
    }
    assert!(addr::bounded(&*text).len() <= 256);
    let _ = addr::canonical_id(&text, true);
    let never = NeverBlock::new(true, true, &[], &[], &[]);
    let list = addr::split_forwarded(&text);
    let _ = addr::walk_forwarded(list.into_iter(), &Nets::default(), &never);
}

/// A match lies inside its message, in order, and both readings are readings.
pub fn templates(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (source, message) = text.split_once('\n').unwrap_or((&text, ""));
    let template = match Template::parse(source) {
        Ok(template) => template,
        Err(error) => {
            assert!(error.at <= source.len());
            return;
        }
    };
    let stop = template.stop(message);
    assert!(message.is_char_boundary(stop.at));
    let Some(found) = template.matches(message) else { return };
    for ranges in [&found.earliest[..], found.latest()] {
        assert_eq!(ranges.len(), template.captures().len());
        let mut at = 0;
        for (range, literal) in ranges.iter().zip(template.literals()) {
            assert!(at <= range.start && range.start <= range.end);
            assert!(message[..range.start].ends_with(literal.as_str()));
            at = range.end;
        }
        assert!(at <= message.len());
    }
}

/// Conditions are read or refused at a place inside them.
pub fn conditions(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = condition::parse_when(&text);
    let _ = condition::parse_then(&text);
    let _ = condition::parse_escalate(&text);
    let _ = condition::parse_limit(&text);
}

/// A line decodes to something, always the same.
pub fn record(data: &[u8]) {
    let config = DecodeConfig::default();
    assert_eq!(decode(data, &config), decode(data, &config));
    let _ = envelope::fragment(data, &config);
}

/// The prefilter never loses what a pattern would have named.
pub fn events(data: &[u8]) {
    static ASSEMBLY: OnceLock<Assembly> = OnceLock::new();
    let assembly = ASSEMBLY.get_or_init(|| match Assembly::new(&Settings::default(), &[]) {
        Ok(assembly) => assembly,
        Err(problems) => panic!("{problems:?}"),
    });
    for line in data.split(|b| *b == b'\n') {
        let candidate = assembly.scanner.set.prefilter().candidate(line);
        let mut findings = Findings::default();
        match assembly.scanner.line(line, None, &mut findings) {
            Some(What::Piece) => assert!(candidate, "a piece was filtered out"),
            Some(What::Records(_)) if !candidate => {
                assert!(findings.events.list.is_empty(), "lost");
            }
            _ => {}
        }
    }
}
