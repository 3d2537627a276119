//! The kernel's firewall keeps real packets out, and lets them in again.
//!
//! Needs root, nft, ip and ping: `tests/nftables/fetch.sh fetch` says or installs what is missing.

use crate::netns::{GATE_V4, Gate, program};
use crate::remotes::parse;
use portcullis::action::Action;
use portcullis::action::decision::Decision;
use portcullis::decode::time;
use portcullis::sink::nftables::{Deny, Options};
use portcullis::sink::remote::{Progress, Remote, Trouble};
use portcullis::sink::{Context, SinkConfig};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "the kernel's timers go by the real time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The time so many seconds from now, as a line says it.
fn after(seconds: i64) -> String {
    let now = now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    time::format(i64::try_from(now).unwrap() + seconds * 1_000_000)
}

/// A line about a block that ends so many seconds from now.
fn line(op: &str, target: &str, seconds: i64) -> Action {
    let kind = if target.contains('/') { "range" } else { "ip" };
    let mut line = json!({
        "schema": 1, "id": format!("{:016x}", target.len()), "time": after(0), "op": op,
        "action": "block", "target": { "kind": kind, "value": target }, "rule": "r", "pack": "p",
        "mode": "enforce", "reason": "21 FAILED_LOGIN",
    });
    if op != "end" {
        line["until"] = json!(after(seconds));
    }
    Action::of_json(&line.to_string()).unwrap()
}

fn start(target: &str, seconds: i64) -> Action {
    line("start", target, seconds)
}

fn active(target: &str, seconds: i64) -> Decision {
    Decision::of_start(&start(target, seconds)).unwrap()
}

fn options(gate: &Gate) -> Options {
    // What is missing is to be said as such, not as the sink's trouble.
    program("nft");
    Options { netns: Some(gate.name().to_owned()), ..Options::default() }
}

fn open(options: &Options) -> Box<dyn Remote> {
    options.open(&Context::default()).unwrap()
}

fn reason(progress: &Progress) -> &str {
    progress.trouble.as_ref().map(Trouble::why).unwrap_or_default()
}

/// Delivers as a driver does: what is refused is passed over. What was refused.
fn drive(sink: &mut dyn Remote, actions: &[Action]) -> Vec<String> {
    let (mut rest, mut refused) = (actions, Vec::new());
    while !rest.is_empty() {
        assert!(rest.iter().all(|action| sink.wants(action)));
        let progress = sink.deliver(rest, now());
        rest = &rest[progress.done..];
        match progress.trouble {
            None => assert!(rest.is_empty(), "it stopped for nothing"),
            Some(Trouble::Refused { why }) => {
                refused.push(why);
                rest = &rest[1..];
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    refused
}

/// What a command of nft says inside the gate.
fn nft(gate: &Gate, command: &str) -> String {
    let output = gate.command("nft").arg(command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The elements of all our sets with the seconds that are left of each, sorted.
fn elements(gate: &Gate) -> Vec<(String, i64)> {
    let output = gate.command("nft").args(["-j", "list", "table", "inet", "portcullis"]).output();
    let listing: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let sets = listing["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("set"));
    let all = sets.flat_map(|set| set["elem"].as_array().cloned().unwrap_or_default());
    let mut all: Vec<(String, i64)> = all
        .map(|element| match &element {
            Value::String(value) => (value.clone(), -1),
            _ => {
                let element = &element["elem"];
                let left = element["expires"].as_i64().unwrap();
                (element["val"].as_str().unwrap().to_owned(), left)
            }
        })
        .collect();
    all.sort();
    all
}

fn names(gate: &Gate) -> Vec<String> {
    elements(gate).into_iter().map(|(name, _)| name).collect()
}

/// A program of the test's own in the place of nft; `$NFT` in it is the real one.
fn instead_of_nft(folder: &Path, script: &str) -> String {
    let path = folder.join("nft");
    let text = format!("#!/bin/sh\nNFT={}\n{script}\n", program("nft"));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_attacker_is_kept_out_and_his_neighbour_is_not() {
    let gate = Gate::new();
    let mut sink = open(&options(&gate));
    // An address, an IPv6 address, and ranges, of which any address is meant, one inside another.
    let attackers = [
        ("203.0.113.66", "203.0.113.66", "203.0.113.67"),
        ("2001:db8:66::9", "2001:db8:66::9", "2001:db8:66::8"),
        ("2001:db8:64:1::/64", "2001:db8:64:1:dead:beef:0:7", "2001:db8:64:2::7"),
        ("2001:db8:48::/48", "2001:db8:48:ffff::1", "2001:db8:49::1"),
        ("203.0.113.128/26", "203.0.113.191", "203.0.113.192"),
        ("203.0.113.160/27", "203.0.113.160", "203.0.113.200"),
        // An IPv4 address in the clothes of IPv6.
        ("::ffff:203.0.113.77", "203.0.113.77", "203.0.113.78"),
    ];
    for (_, from, neighbour) in attackers {
        assert!(gate.passes(from) && gate.passes(neighbour));
    }
    let starts: Vec<Action> = attackers.iter().map(|(at, ..)| start(at, 3600)).collect();
    assert_eq!(sink.deliver(&starts, now()), Progress::all(&starts));
    for (at, from, neighbour) in attackers {
        assert!(gate.is_dropped(from), "{at} is blocked, {from} passes");
        assert!(gate.passes(neighbour), "{at} is blocked, {neighbour} does not pass");
    }
    // The same again changes nothing; what is lifted passes, and nothing else does.
    assert_eq!(sink.deliver(&starts, now()), Progress::all(&starts));
    let ends: Vec<Action> = attackers[..4].iter().map(|(at, ..)| line("end", at, 0)).collect();
    assert_eq!(sink.deliver(&ends, now()), Progress::all(&ends));
    assert_eq!(sink.deliver(&ends, now()), Progress::all(&ends));
    for (_, from, _) in &attackers[..4] {
        assert!(gate.passes(from));
    }
    assert_eq!(
        elements(&gate).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["203.0.113.128", "203.0.113.160", "203.0.113.77"]
    );
    assert!(gate.is_dropped("203.0.113.191"));
    // The inner range lives on when the outer one is lifted.
    assert_eq!(drive(&mut *sink, &[line("end", "203.0.113.128/26", 0)]), Vec::<String>::new());
    assert!(gate.passes("203.0.113.130"));
    assert!(gate.is_dropped("203.0.113.161"));
}

#[test]
fn what_passes_through_is_kept_out_too() {
    // A third party behind the gate, as a container is.
    let (gate, behind) = (Gate::new(), Gate::new());
    let mut sink = open(&Options { deny: Deny::Reject, ..options(&gate) });
    let run = |gate: &Gate, program: &str, args: &str| {
        let output = gate.command(program).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&behind, "ip", "link del wire");
    run(&gate, "ip", &format!("link add inner type veth peer name inner netns {}", behind.name()));
    run(&gate, "ip", "link set inner up");
    run(&gate, "ip", "addr add 198.51.100.1/24 dev inner");
    run(&gate, "sysctl", "-q -w net.ipv4.ip_forward=1");
    run(&behind, "ip", "link set inner up");
    run(&behind, "ip", "addr add 198.51.100.2/24 dev inner");
    run(&behind, "ip", "route add default via 198.51.100.1");
    for from in ["203.0.113.66", "203.0.113.67"] {
        gate.put(from);
    }
    let routed = gate.on_the_road("ip").args(["route", "add", "default", "via", GATE_V4]).status();
    assert!(routed.unwrap().success());
    let reaches = |from: &str| {
        let args = format!("-n -q -c 1 -i 0.2 -w 3 -I {from} 198.51.100.2");
        gate.on_the_road("ping").args(args.split(' ')).output().unwrap().status.success()
    };
    assert!(reaches("203.0.113.66") && reaches("203.0.113.67"));
    assert!(drive(&mut *sink, &[start("203.0.113.66", 3600)]).is_empty());
    assert!(!reaches("203.0.113.66"));
    assert!(reaches("203.0.113.67"));
    assert!(gate.is_dropped("203.0.113.66"));
}

#[test]
fn a_block_ends_by_itself_and_an_extension_holds_beyond_its_first_end() {
    let gate = Gate::new();
    let mut sink = open(&options(&gate));
    assert!(drive(&mut *sink, &[start("203.0.113.66", 5), start("203.0.113.67", 5)]).is_empty());
    let first_end = Instant::now() + Duration::from_secs(5);
    assert!(drive(&mut *sink, &[line("extend", "203.0.113.67", 3600)]).is_empty());
    assert!(gate.is_dropped("203.0.113.66"));
    std::thread::sleep(first_end.saturating_duration_since(Instant::now()));
    gate.until_passes("203.0.113.66");
    assert!(gate.is_dropped("203.0.113.67"));
    // What is left counts, in whole seconds; nothing is said of what is over, not even for ever.
    let late =
        [start("203.0.113.1", 0), start("203.0.113.2", -60), line("extend", "203.0.113.3", 0)];
    assert!(drive(&mut *sink, &late).is_empty());
    let left = elements(&gate);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!((3580..=3600).contains(&left[0].1), "{left:?}");
    // A shorter end, as after a correction, is taken too: the line says until when.
    assert!(drive(&mut *sink, &[line("extend", "203.0.113.67", 60)]).is_empty());
    assert!(elements(&gate)[0].1 <= 60);
}

#[test]
fn ten_thousand_blocks_are_one_transaction() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let counted = format!("echo \"$@\" >>{0}/calls; exec $NFT \"$@\"", folder.path().display());
    let nft = instead_of_nft(folder.path(), &counted);
    let mut sink = open(&Options { nft: Some(nft), ..options(&gate) });
    assert_eq!(sink.reconcile(&[], now()), Ok(None));
    std::fs::write(folder.path().join("calls"), "").unwrap();
    let address = |n: u32| match n % 3 {
        0 => format!("100.{}.{}.7", 64 + n / 256 % 64, n % 256),
        1 => format!("2001:db8::{:x}", n + 1),
        _ => format!("2001:db8:{:x}:{:x}::/64", n / 1000, n),
    };
    let actions: Vec<Action> = (0..10_000).map(|n| start(&address(n), 86_400)).collect();
    for again in [false, true] {
        let begin = Instant::now();
        assert_eq!(sink.deliver(&actions, now()), Progress::all(&actions));
        println!("10000 blocks (again: {again}): {:?}", begin.elapsed());
    }
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    assert_eq!(calls, "-f -\n-f -\n");
    assert_eq!(elements(&gate).len(), 10_000);
    let begin = Instant::now();
    let decisions: Vec<Decision> = actions.iter().filter_map(Decision::of_start).collect();
    assert_eq!(sink.reconcile(&decisions, now()), Ok(None));
    println!("10000 compared: {:?}", begin.elapsed());
    let begin = Instant::now();
    let ends: Vec<Action> = (0..10_000).map(|n| line("end", &address(n), 0)).collect();
    assert_eq!(sink.deliver(&ends, now()), Progress::all(&ends));
    println!("10000 lifted: {:?}", begin.elapsed());
    assert_eq!(elements(&gate), []);
}

#[test]
fn what_was_done_behind_our_back_is_mended() {
    let gate = Gate::new();
    let mut sink = open(&options(&gate));
    let decisions = [
        active("203.0.113.66", 3600),
        active("203.0.113.67", 3600),
        active("2001:db8:66::/64", 7200),
    ];
    let right = ["2001:db8:66::", "203.0.113.66", "203.0.113.67"];
    let told = sink.reconcile(&decisions, now()).unwrap().unwrap();
    assert!(told.contains("was not there: made anew with all 3 that are active"), "{told}");
    assert!(gate.is_dropped("203.0.113.66"));
    assert!(gate.is_dropped("2001:db8:66::1:2"));
    let mut expect = |gate: &Gate, said: &[&str]| {
        let told = sink.reconcile(&decisions, now()).unwrap();
        for text in said {
            assert!(told.as_ref().is_some_and(|told| told.contains(text)), "{told:?} lacks {text}");
        }
        assert_eq!(names(gate), right);
        assert!(elements(gate).iter().all(|(_, left)| *left > 3500), "{:?}", elements(gate));
        assert_eq!(sink.reconcile(&decisions, now()), Ok(None), "it is never content");
    };
    expect(&gate, &[]);
    for (done, said) in [
        ("delete element inet portcullis hosts4 { 203.0.113.66 }", "1 was missing"),
        (
            "add element inet portcullis hosts4 { 203.0.113.99 timeout 1h, 203.0.113.98 }",
            "2 were there without a decision",
        ),
        (
            "add element inet portcullis ranges6_64 { 2001:db8:66::9 timeout 1h }",
            "1 was there without a decision",
        ),
        (
            "delete element inet portcullis hosts4 { 203.0.113.66 }; add element inet portcullis hosts4 { 203.0.113.66 timeout 5m }",
            "1 was there with another end",
        ),
        (
            "delete element inet portcullis hosts4 { 203.0.113.66 }; add element inet portcullis hosts4 { 203.0.113.66 }",
            "1 was there with another end",
        ),
        ("flush set inet portcullis hosts4", "2 were missing"),
        ("flush table inet portcullis", "was changed"),
        ("flush chain inet portcullis input", "was changed (the hooks)"),
        ("delete table inet portcullis", "was not there"),
        ("flush ruleset", "was not there"),
        ("add rule inet portcullis input accept", "a rule in input"),
        ("insert rule inet portcullis blocked accept", "a rule in blocked"),
        ("add chain inet portcullis other", "the chain other"),
        ("add chain inet portcullis input { policy drop; }", "the chain input"),
        (
            "add set inet portcullis mine { type ipv4_addr; flags interval; elements = { 203.0.113.0/25, 203.0.113.200-203.0.113.210 }; }",
            "the set mine",
        ),
        ("add set inet portcullis ranges4_24 { type ipv4_addr; flags timeout; }", "the rules"),
    ] {
        nft(&gate, done);
        expect(&gate, &[said]);
        println!("{done}: mended");
    }
    // Another table is another's.
    nft(
        &gate,
        "add table inet other; add chain inet other c { type filter hook input priority 0; }",
    );
    expect(&gate, &[]);
    assert!(nft(&gate, "list ruleset").contains("table inet other"));
    assert!(gate.is_dropped("203.0.113.67"));
    // What ended while nobody told us is taken out.
    let told = sink.reconcile(&decisions[..1], now()).unwrap().unwrap();
    assert_eq!(told, "in the firewall 2 were there without a decision: mended");
    assert_eq!(names(&gate), ["203.0.113.66"]);
    assert!(gate.passes("203.0.113.67"));
    assert_eq!(sink.reconcile_every(), Some(Duration::from_secs(300)));
}

#[test]
fn a_batch_finds_its_table_gone_and_makes_it_again() {
    let gate = Gate::new();
    let mut sink = open(&options(&gate));
    assert!(drive(&mut *sink, &[start("203.0.113.66", 3600)]).is_empty());
    for done in [
        "flush ruleset",
        // Another's idea of our set, in which there is no room.
        "flush ruleset; add table inet portcullis; add chain inet portcullis blocked; add set inet portcullis hosts4 { type ipv4_addr; size 1; flags timeout; }",
    ] {
        nft(&gate, done);
        assert!(
            drive(&mut *sink, &[start("203.0.113.67", 60), start("203.0.113.68", 60)]).is_empty()
        );
        assert_eq!(names(&gate), ["203.0.113.66", "203.0.113.67", "203.0.113.68"]);
        assert!(gate.is_dropped("203.0.113.66"));
    }
}

#[test]
fn what_the_table_is_to_be_made_of_is_known_until_it_is_made() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let off = folder.path().join("off");
    std::fs::write(&off, "").unwrap();
    let failing = format!(
        "if [ \"$1\" != -f ]; then exec $NFT \"$@\"; fi; script=$(cat); \
        case $script in *'delete table'*) if [ -e {} ]; then echo 'Operation not permitted' >&2; exit 1; fi;; esac; \
        printf '%s\\n' \"$script\" | $NFT -f -",
        off.display()
    );
    let nft_path = instead_of_nft(folder.path(), &failing);
    let mut sink = open(&Options { nft: Some(nft_path), ..options(&gate) });
    let first = [start("203.0.113.66", 3600)];
    // At the start it is not known what is in the table: nothing is done until that is.
    assert!(reason(&sink.deliver(&first, now())).contains("CAP_NET_ADMIN"));
    std::fs::remove_file(&off).unwrap();
    assert!(drive(&mut *sink, &first).is_empty());
    nft(&gate, "flush ruleset");
    std::fs::write(&off, "").unwrap();
    let second = [start("203.0.113.67", 3600)];
    for _ in 0..2 {
        let progress = sink.deliver(&second, now());
        assert_eq!(progress.done, 0);
        assert!(reason(&progress).contains("CAP_NET_ADMIN"), "{progress:?}");
    }
    std::fs::remove_file(&off).unwrap();
    assert!(drive(&mut *sink, &second).is_empty());
    assert_eq!(names(&gate), ["203.0.113.66", "203.0.113.67"]);
}

#[test]
fn another_run_goes_on_with_what_is_there() {
    let gate = Gate::new();
    assert!(drive(&mut *open(&options(&gate)), &[start("203.0.113.66", 3600)]).is_empty());
    let rules = nft(&gate, "list chain inet portcullis blocked");
    // Not asked to compare, it keeps what it finds; asked to, it has nothing to say.
    let mut sink = open(&options(&gate));
    assert!(drive(&mut *sink, &[start("2001:db8:66::/64", 3600)]).is_empty());
    assert_eq!(names(&gate), ["2001:db8:66::", "203.0.113.66"]);
    let mut sink = open(&options(&gate));
    let decisions = [active("203.0.113.66", 3600), active("2001:db8:66::/64", 3600)];
    assert_eq!(sink.reconcile(&decisions, now()), Ok(None));
    let unchanged = nft(&gate, "list chain inet portcullis blocked");
    assert!(
        unchanged.starts_with(rules.trim_end().trim_end_matches(['}', '\t', '\n'])),
        "{unchanged}"
    );
    // Other settings are another table.
    let mut sink = open(&Options { hooks: vec!["input"], deny: Deny::Reject, ..options(&gate) });
    let told = sink.reconcile(&decisions, now()).unwrap().unwrap();
    assert!(told.contains("was changed (a rule in blocked, the chain forward"), "{told}");
    assert!(!nft(&gate, "list table inet portcullis").contains("forward"));
    assert_eq!(sink.reconcile(&decisions, now()), Ok(None));
    assert_eq!(names(&gate), ["2001:db8:66::", "203.0.113.66"]);
}

#[test]
fn only_addresses_reach_nft() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let nft = instead_of_nft(
        folder.path(),
        &format!("echo \"$@\" >>{0}; tee -a {0} | $NFT \"$@\"", seen.display()),
    );
    let mut sink = open(&Options { nft: Some(nft), ..options(&gate) });
    let hostile = [
        "192.0.2.999",
        "1.2.3.4; flush ruleset",
        "1.2.3.4\nflush ruleset",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/31",
        "10.0.0.0/15",
        "127.0.0.1",
        "127.0.0.0/16",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "fe80::1",
        "169.254.1.1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0/96",
        "localhost",
        "",
        "1.2.3.4 timeout 1s",
        "fe80::1%eth0",
        "2001:db8::/129",
        "203.0.113.0/24, 0.0.0.0/0",
        "@hosts4",
        "1.2.3.4-5.6.7.8",
        "0x7f000001",
        "$(reboot)",
    ];
    let mut actions = vec![start("203.0.113.66", 60)];
    actions.extend(hostile.iter().map(|text| start(text, 60)));
    actions.push(start("203.0.113.67", 60));
    let refused = drive(&mut *sink, &actions);
    assert_eq!(refused.len(), hostile.len(), "{refused:#?}");
    assert!(refused.iter().all(|why| !why.contains('\n')), "{refused:#?}");
    let ends: Vec<Action> = hostile.iter().map(|text| line("end", text, 0)).collect();
    assert!(drive(&mut *sink, &ends).is_empty());
    let decisions: Vec<Decision> = actions.iter().filter_map(Decision::of_start).collect();
    assert_eq!(sink.reconcile(&decisions, now()), Ok(None));
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("203.0.113.67 timeout"), "{seen}");
    for line in seen.lines() {
        let ours = [
            "add table",
            "delete table",
            "add chain",
            "add set",
            "add rule",
            "-f -",
            "-j list table inet portcullis",
        ];
        let element = line
            .strip_prefix("add element inet portcullis hosts4 { ")
            .or_else(|| line.strip_prefix("delete element inet portcullis hosts4 { "));
        let Some(rest) = element else {
            assert!(ours.iter().any(|word| line.starts_with(word)), "{line}");
            continue;
        };
        for element in rest.trim_end_matches('}').split(", ").filter(|part| !part.is_empty()) {
            let address = element.split(' ').next().unwrap();
            assert!(["203.0.113.66", "203.0.113.67"].contains(&address), "{line}");
        }
    }
    for kind in ["user", "global", "session"] {
        let mut other = start("203.0.113.66", 60);
        other.target.kind = kind.to_owned();
        assert!(!sink.wants(&other));
    }
    let mut shadow = start("203.0.113.66", 60);
    shadow.mode = "shadow";
    assert!(!sink.wants(&shadow));
    let mut alert = start("203.0.113.66", 60);
    alert.action = "alert";
    assert!(!sink.wants(&alert));
    assert!(!sink.wants(&line("withheld", "203.0.113.66", 60)));
}

#[test]
fn one_that_the_kernel_refuses_does_not_hold_the_others() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let refusing = "if [ \"$1\" != -f ]; then exec $NFT \"$@\"; fi; script=$(cat); \
        case $script in *' 203.0.113.13 '*|*' 203.0.113.77 '*) echo 'Error: no' >&2; exit 1;; esac; \
        printf '%s\\n' \"$script\" | $NFT -f -";
    let nft = instead_of_nft(folder.path(), refusing);
    let mut sink = open(&Options { nft: Some(nft), ..options(&gate) });
    let address = |n: u32| format!("203.0.113.{n}");
    let actions: Vec<Action> = (2..102).map(|n| start(&address(n), 600)).collect();
    let refused = drive(&mut *sink, &actions);
    assert_eq!(
        refused,
        ["203.0.113.13/32: nft refuses: Error: no", "203.0.113.77/32: nft refuses: Error: no"]
    );
    assert_eq!(elements(&gate).len(), 98);
    let decisions: Vec<Decision> = actions.iter().filter_map(Decision::of_start).collect();
    let trouble = sink.reconcile(&decisions, now()).unwrap_err();
    assert_eq!(trouble.why(), "2 could not be mended: 203.0.113.13/32: nft refuses: Error: no");
    assert_eq!(elements(&gate).len(), 98);
}

#[test]
fn a_full_table_takes_no_more_until_there_is_room() {
    let gate = Gate::new();
    let mut sink = open(&Options { max_elements: 3, ..options(&gate) });
    let address = |n: u32| format!("203.0.113.{n}");
    let actions: Vec<Action> = (2..7).map(|n| start(&address(n), 600)).collect();
    let refused = drive(&mut *sink, &actions);
    assert_eq!(refused.len(), 2, "{refused:#?}");
    assert!(refused[0].contains("as many as `max_elements` allows"), "{refused:#?}");
    // What is there may be extended, and what ended makes room.
    let more =
        [line("extend", &address(3), 900), line("end", &address(4), 0), start(&address(5), 600)];
    assert!(drive(&mut *sink, &more).is_empty());
    assert_eq!(drive(&mut *sink, &[start(&address(6), 600)]).len(), 1);
    let decisions: Vec<Decision> = actions[1..].iter().filter_map(Decision::of_start).collect();
    let told = sink.reconcile(&decisions, now()).unwrap().unwrap();
    assert!(told.contains("1 are not in force: the firewall holds 3"), "{told}");
    assert_eq!(names(&gate), [address(3), address(4), address(5)]);
    sink.clean().unwrap();
    let mut sink = open(&Options { max_elements: 3, ..options(&gate) });
    // What is over makes room too.
    assert!(
        drive(
            &mut *sink,
            &[start(&address(2), 2), start(&address(3), 600), start(&address(4), 600)]
        )
        .is_empty()
    );
    std::thread::sleep(Duration::from_millis(2100));
    assert!(drive(&mut *sink, &[start(&address(5), 600)]).is_empty());
}

#[test]
fn trouble_says_what_to_do() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let stripped = instead_of_nft(
        folder.path(),
        "exec setpriv --bounding-set -net_admin --inh-caps -net_admin $NFT \"$@\"",
    );
    let other = tempfile::tempdir().unwrap();
    let slow = instead_of_nft(other.path(), "sleep 600 & exec sleep 600");
    let broken = tempfile::tempdir().unwrap();
    let broken = instead_of_nft(broken.path(), "echo '{ \"nftables\": 7 }'");
    let plain = options(&gate);
    for (options, said) in [
        (
            Options { nft: Some("/nowhere/nft".into()), ..plain.clone() },
            "/nowhere/nft: No such file",
        ),
        (Options { nft: Some("/etc/passwd".into()), ..plain.clone() }, "may not be run"),
        (Options { nft: Some(stripped), ..plain.clone() }, "it needs CAP_NET_ADMIN"),
        (
            Options { netns: Some("portcullis-none".into()), ..plain.clone() },
            "`netns`: Cannot open network namespace",
        ),
        (
            Options { nft: Some(slow), timeout: Duration::from_secs(1), ..plain.clone() },
            "was not done after 1s and was killed",
        ),
        (Options { nft: Some(broken), ..plain.clone() }, "broken"),
    ] {
        let mut sink = open(&options);
        let progress = sink.deliver(&[start("203.0.113.66", 60)], now());
        assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
        if said != "broken" {
            assert!(reason(&progress).contains(said), "{progress:?} lacks {said}");
            assert!(sink.test(now()).unwrap_err().contains(said));
            let trouble = sink.reconcile(&[], now()).unwrap_err();
            assert!(trouble.why().contains(said), "{trouble:?}");
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "it waited for what it killed");
}

#[test]
fn a_test_changes_nothing_and_cleaning_leaves_nothing() {
    let gate = Gate::new();
    nft(&gate, "add table inet other");
    let mut sink = open(&options(&gate));
    let before = nft(&gate, "list ruleset");
    let told = sink.test(now()).unwrap();
    assert!(told.starts_with("nftables v"), "{told}");
    assert!(told.contains("takes the table inet portcullis (drop at input and forward, priority -10); it is not there yet"), "{told}");
    assert_eq!(nft(&gate, "list ruleset"), before);
    assert_eq!(sink.clean().unwrap(), "there is no table inet portcullis");
    assert!(
        drive(&mut *sink, &[start("203.0.113.66", 3600), start("2001:db8:66::/64", 3600)])
            .is_empty()
    );
    let there = nft(&gate, "list ruleset");
    let told = sink.test(now()).unwrap();
    assert!(told.contains("it is there and holds 2 addresses and ranges"), "{told}");
    // Times go by meanwhile.
    assert_eq!(nft(&gate, "list ruleset").lines().count(), there.lines().count());
    assert_eq!(sink.clean().unwrap(), "the table inet portcullis with 2 addresses and ranges");
    assert_eq!(nft(&gate, "list ruleset"), before);
    assert!(
        sink.would(&start("203.0.113.66", 60))
            .starts_with("put 203.0.113.66 into the table inet portcullis until 20")
    );
    assert_eq!(
        sink.would(&line("end", "2001:db8:66::/64", 0)),
        "take 2001:db8:66::/64 out of the table inet portcullis"
    );
    assert!(sink.would(&start("0.0.0.0/0", 60)).starts_with("refuse it: "));
}

#[test]
fn its_settings_are_checked_where_they_stand() {
    assert_eq!(parse("nftables: {}\n").unwrap(), SinkConfig::Nftables(Options::default()));
    assert_eq!(parse("nftables:\n").unwrap().name(), "nftables");
    let all = "nftables: { table: portcullis_edge, hooks: [prerouting], priority: -300, deny: drop, nft: /opt/nft, netns: web-1, timeout: 5s, max_elements: 1000 }\n";
    let all = parse(all).unwrap();
    assert_eq!(all.name(), "nftables portcullis_edge in web-1");
    for (text, said) in [
        ("tabel: portcullis", "did you mean `table`?"),
        ("table: filter", "it begins with `portcullis`"),
        ("table: 'portcullis; flush ruleset'", "cannot be the name of our table"),
        ("hooks: [inptu]", "did you mean `input`?"),
        ("hooks: []", "nothing would be looked at"),
        ("deny: refuse", "`refuse` is not known"),
        ("priority: 9999", "between -400 and 400"),
        ("nft: nft", "must be an absolute path"),
        ("netns: ../x", "no name of a network namespace"),
        ("netns: -x", "no name of a network namespace"),
        ("timeout: 10ms", "at least 1s"),
        ("max_elements: 0", "between 1 and 5000000"),
        ("{ hooks: [prerouting], deny: reject }", "cannot reject"),
    ] {
        let text = if text.starts_with('{') { text.to_owned() } else { format!("{{ {text} }}") };
        let told = parse(&format!("nftables: {text}\n")).unwrap_err();
        assert!(told.contains(said), "{text}: {told}");
        assert!(told.contains("--> portcullis.yaml:1:"), "{told}");
    }
}
