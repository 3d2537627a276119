//! Packs: files of patterns and rules, read and checked at start.

use crate::detect::rule::{self, Rule};
use crate::pattern::BUILT_IN;
use crate::pattern::spec::{self, Pattern, is_pattern_name};
use crate::yaml::{Checker, Document, Node, Place, Problem};
use std::path::Path;

/// The packs compiled into the program.
pub const PACKS: [(&str, &str); 3] = [
    ("velro", include_str!("../patterns/velro.yaml")),
    ("guard", include_str!("../patterns/guard.yaml")),
    ("sshd", include_str!("../patterns/sshd.yaml")),
];

/// The packs that are loaded when nobody says otherwise.
pub const DEFAULT_PACKS: [&str; 2] = ["velro", "guard"];

/// A pack of patterns and rules.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// The file, or the name of a built-in pack, with its text.
    pub document: Document,
    /// The names of its patterns, those with mistakes included.
    pub declared: Vec<String>,
    /// Its patterns.
    pub patterns: Vec<Pattern>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Reads the packs named by `entries`: names of built-in packs, files, or folders of files.
pub fn load(entries: &[String]) -> (Vec<Pack>, Vec<Problem>) {
    let mut packs = Vec::new();
    let mut problems = Vec::new();
    let mut complete = true;
    for entry in entries {
        let documents = documents(entry, &mut problems);
        complete &= !documents.is_empty();
        for document in documents {
            let (pack, mut found) = parse(document);
            problems.append(&mut found);
            packs.extend(pack);
        }
    }
    check_together(&packs, complete, &mut problems);
    (packs, problems)
}

fn documents(entry: &str, problems: &mut Vec<Problem>) -> Vec<Document> {
    if let Some((name, text)) = PACKS.iter().find(|(name, _)| *name == entry) {
        return vec![Document { name: format!("pack {name}"), text: (*text).to_owned() }];
    }
    let path = Path::new(entry);
    let mut fail = |message: String, help: Option<String>| {
        problems.push(Problem { help, ..Problem::whole(entry, message) });
    };
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        let listed = std::fs::read_dir(path).map(|dir| {
            let mut files: Vec<_> = dir
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
                .collect();
            files.sort();
            files
        });
        match listed {
            Ok(files) if files.is_empty() => {
                fail("the folder holds no .yaml file".into(), None);
                return Vec::new();
            }
            Ok(files) => paths = files,
            Err(error) => {
                fail(format!("cannot list the folder: {error}"), None);
                return Vec::new();
            }
        }
    }
    let mut documents = Vec::new();
    for path in paths {
        match std::fs::read_to_string(&path) {
            Ok(text) => documents.push(Document { name: path.display().to_string(), text }),
            Err(error) => {
                let names: Vec<&str> = PACKS.iter().map(|(name, _)| *name).collect();
                let help = match crate::yaml::nearest(entry, &names) {
                    Some(near) => format!("did you mean the built-in pack `{near}`?"),
                    None => format!("built-in packs: {}", names.join(", ")),
                };
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => "there is no such file or pack".to_owned(),
                    std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                    std::io::ErrorKind::InvalidData => "it is no UTF-8 text".to_owned(),
                    _ => error.to_string(),
                };
                fail(format!("cannot read the patterns `{entry}`: {why}"), Some(help));
            }
        }
    }
    documents
}

/// Whether a document is a pack (and not a configuration).
pub fn is_pack(node: &Node) -> bool {
    node.get("pack").is_some()
}

const PACK_KEYS: [&str; 6] = ["pack", "title", "description", "reference", "patterns", "rules"];

/// Reads one pack.
pub fn parse(document: Document) -> (Option<Pack>, Vec<Problem>) {
    let mut checker = Checker::new(&document);
    let Some(root) = checker.parse() else { return (None, checker.problems) };
    let members = checker.map(&root, "a pattern file", &PACK_KEYS);
    let name = match root.get("pack") {
        Some(node) => checker.text(node, "`pack`").unwrap_or_default(),
        None => {
            checker.at(Place { line: 1, column: 1 }, 1, "a pattern file needs `pack: NAME`", None);
            String::new()
        }
    };
    if name == "portcullis" {
        checker.at(Place { line: 1, column: 1 }, 1, "the pack name `portcullis` is its own", None);
    }
    let mut declared = Vec::new();
    let mut patterns = Vec::new();
    let mut rules = Vec::new();
    for (key, value) in members {
        match key.name.as_str() {
            "patterns" => {
                for (key, node) in value.as_map().unwrap_or_default() {
                    if !is_pattern_name(&key.name) {
                        let help = "capitals, digits and _: FAILED_LOGIN".to_owned();
                        checker.key(
                            key,
                            format!("`{}` is no name for a pattern", key.name),
                            Some(help),
                        );
                    }
                    if BUILT_IN.contains(&key.name.as_str()) {
                        checker.key(
                            key,
                            format!("`{}` is raised by Portcullis itself", key.name),
                            None,
                        );
                    }
                    declared.push(key.name.clone());
                    patterns.extend(spec::parse(&mut checker, &key.name, key.place, node, &name));
                }
                if value.as_map().is_none() {
                    checker.node(value, "`patterns` must be a map of names", None);
                }
            }
            "rules" => {
                for node in value.as_list() {
                    rules.extend(rule::parse(&mut checker, node, &name));
                }
            }
            _ => {}
        }
    }
    let problems = checker.problems;
    (Some(Pack { name, document, declared, patterns, rules }), problems)
}

/// What no file can tell alone: ids that are there twice and, if the packs are complete, rules on patterns that
/// nobody declares.
fn check_together(packs: &[Pack], complete: bool, problems: &mut Vec<Problem>) {
    let mut known: Vec<&str> = BUILT_IN.to_vec();
    for pack in packs {
        for pattern in &pack.patterns {
            if known.contains(&pattern.name.as_str()) {
                let mut checker = Checker::new(&pack.document);
                let message = format!("the pattern {} is declared twice", pattern.name);
                checker.at(pattern.place, pattern.name.len(), message, None);
                problems.append(&mut checker.problems);
            }
            known.push(&pattern.name);
        }
    }
    known.extend(packs.iter().flat_map(|pack| &pack.declared).map(String::as_str));
    known.sort_unstable();
    known.dedup();
    let mut ids: Vec<&str> = Vec::new();
    for pack in packs {
        for rule in &pack.rules {
            let mut checker = Checker::new(&pack.document);
            if ids.contains(&rule.id.as_str()) {
                checker.at(
                    rule.place,
                    1,
                    format!("the rule id `{}` is there twice", rule.id),
                    None,
                );
            }
            ids.push(&rule.id);
            for on in &rule.on {
                if complete && !known.contains(&on.as_str()) {
                    let help = match crate::yaml::nearest(on, &known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("loaded patterns: {}", known.join(", ")),
                    };
                    let message = format!("rule {}: no loaded pattern is called `{on}`", rule.id);
                    checker.at(rule.place, 1, message, Some(help));
                }
            }
            problems.append(&mut checker.problems);
        }
    }
}
