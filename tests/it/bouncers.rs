//! Real bouncers and real servers, fed by the Local API and the lists: Debian's firewall and custom
//! bouncers, pycrowdsec, the Node bouncer, nginx and HAProxy. `tests/bouncers/fetch.sh` fetches them.

use crate::netns::Gate;
use crate::support::root;
use portcullis::action::Action;
use portcullis::decide::board::Board;
use portcullis::decode::time::{Micros, format};
use portcullis::engine::ask::asking;
use portcullis::serve::auth::{Role, TokenConfig, TokenPlace};
use portcullis::serve::{ServeConfig, Server, Shared, start};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

const KEY: &str = "a-key-that-is-long-enough-for-anybody";
/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SECOND: Micros = 1_000_000;

/// The folder with the real clients.
fn peers() -> &'static Path {
    static PEERS: OnceLock<PathBuf> = OnceLock::new();
    PEERS.get_or_init(|| {
        let script = root().join("tests/bouncers/fetch.sh");
        let output = Command::new("bash").arg(script).arg("fetch").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

fn debian(program: &str) -> String {
    peers().join("root/usr").join(program).to_str().unwrap().to_owned()
}

fn now() -> Micros {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Micros::try_from(since.as_micros()).unwrap()
}

/// An action line of a decision.
fn line(op: &str, id: u64, kind: &str, value: &str, seconds: i64, hosts: &[&str]) -> String {
    let action = if kind == "user" { "lock" } else { "block" };
    let own = if op == "start" { id } else { id + 0x1000_0000 + u64::try_from(seconds).unwrap() };
    let (time, until) = (format(now()), format(now() + seconds * SECOND));
    serde_json::json!({
        "schema": 1, "id": format!("{own:016x}"), "decision": format!("{id:016x}"), "time": time,
        "op": op, "action": action, "target": { "kind": kind, "value": value }, "until": until,
        "rule": "failed-login-ip", "pack": "own", "notify": [], "hosts": hosts, "mode": "enforce",
        "reason": "because",
    })
    .to_string()
}

fn started(id: u64, kind: &str, value: &str, seconds: i64) -> String {
    line("start", id, kind, value, seconds, &[])
}

fn ended(id: u64, kind: &str, value: &str) -> String {
    line("end", id, kind, value, 0, &[])
}

/// A server with a board that the test writes on.
struct Gatehouse {
    board: Arc<Board>,
    server: Server,
}

impl Gatehouse {
    fn at(listen: &str) -> Self {
        let board = Arc::new(Board::default());
        let shared = Shared { board: Arc::clone(&board), asker: asking().0, state_dir: None };
        let token = TokenConfig {
            name: "bouncer".to_owned(),
            role: Role::Bouncer,
            token: TokenPlace::Hash(Sha256::digest(KEY).into()),
        };
        let listen = listen.to_owned();
        let config = ServeConfig { listen, tokens: vec![token], ..ServeConfig::default() };
        Self { board, server: start(&config, Arc::new(shared)).unwrap() }
    }

    fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn say(&self, line: &str) {
        let mut action = Action::of_json(line).unwrap();
        // They are no part of the line of others.
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let hosts = value["hosts"].as_array().unwrap();
        action
            .hosts
            .extend(hosts.iter().map(|host| host.as_str().unwrap().parse::<IpAddr>().unwrap()));
        self.board.apply(&[action]);
    }

    fn url(&self) -> String {
        format!("http://{}/", self.server.address())
    }
}

/// A program that is killed at the end, also of a test that panics.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A server in another namespace: this program again, running [`a_server_for_another_namespace`].
struct Inside {
    _process: Running,
    input: ChildStdin,
}

const INSIDE: &str = "PORTCULLIS_TEST_LISTEN";

impl Inside {
    fn start(gate: &Gate, listen: &str) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut command = gate.command(me.to_str().unwrap());
        command
            .args(["--exact", "bouncers::a_server_for_another_namespace", "--nocapture"])
            .env(INSIDE, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command);
        let (input, output) = (process.0.stdin.take(), process.0.stdout.take());
        let mut lines = BufReader::new(output.unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening")), "the server did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { _process: process, input: input.unwrap() }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }
}

/// Nothing by itself: the other half of [`Inside`].
#[test]
fn a_server_for_another_namespace() {
    let Ok(listen) = std::env::var(INSIDE) else { return };
    let house = Gatehouse::at(&listen);
    println!("listening");
    for line in std::io::stdin().lines() {
        house.say(&line.unwrap());
    }
}

/// Debian's firewall bouncer behind a gate, asking at `url` ten times a second; its log is
/// `folder/log`.
pub fn firewall_bouncer(gate: &Gate, folder: &Path, url: &str, key: &str) -> Running {
    let config = folder.join("bouncer.yaml");
    let pids = folder.display();
    let text = format!(
        "mode: nftables\npid_dir: {pids}/\nupdate_frequency: 100ms\ndaemonize: true\nlog_mode: stdout\n\
         log_level: info\napi_url: {url}\napi_key: {key}\ninsecure_skip_verify: false\n\
         disable_ipv6: false\ndeny_action: DROP\nsupported_decisions_types: [ban]\n\
         blacklists_ipv4: crowdsec-blacklists\nblacklists_ipv6: crowdsec6-blacklists\n\
         nftables:\n  ipv4: {{enabled: true, set-only: false, table: crowdsec, chain: crowdsec-chain}}\n  \
         ipv6: {{enabled: true, set-only: false, table: crowdsec6, chain: crowdsec6-chain}}\n\
         prometheus: {{enabled: false, listen_addr: 127.0.0.1, listen_port: 60601}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = gate.command(debian("bin/crowdsec-firewall-bouncer"));
    command.arg("-c").arg(&config).stdout(log.try_clone().unwrap()).stderr(log);
    Running::start(&mut command)
}

#[test]
fn the_firewall_bouncer_of_debian_drops_packets() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let mut house = Inside::start(&gate, "127.0.0.1:18080");
    let _bouncer = firewall_bouncer(&gate, folder.path(), "http://127.0.0.1:18080/", KEY);

    let (attacker, neighbour) = ("203.0.113.66", "203.0.113.67");
    assert!(gate.passes(attacker) && gate.passes(neighbour));
    house.say(&started(1, "ip", attacker, 600));
    gate.until_dropped(attacker);
    assert!(gate.passes(neighbour), "{}", read(&folder.path().join("log")));

    // Of a range this bouncer takes the first address; the one that offends must be dropped.
    let (offender, beside) = ("2001:db8:66::abcd", "2001:db8:67::abcd");
    assert!(gate.passes(offender));
    house.say(&line("start", 2, "range", "2001:db8:66::/64", 600, &[offender]));
    gate.until_dropped(offender);
    assert!(gate.passes(beside));
    // So must one that comes later.
    let later = "2001:db8:66::beef";
    assert!(gate.passes(later));
    house.say(&line("extend", 2, "range", "2001:db8:66::/64", 700, &[later]));
    gate.until_dropped(later);

    house.say(&ended(1, "ip", attacker));
    gate.until_passes(attacker);
    house.say(&ended(2, "range", "2001:db8:66::/64"));
    gate.until_passes(offender);
    gate.until_passes(later);

    // One that ends by itself, and one that would have, but is extended.
    let (short, extended) = ("203.0.113.70", "203.0.113.71");
    house.say(&started(3, "ip", short, 6));
    house.say(&started(4, "ip", extended, 6));
    let start = Instant::now();
    gate.until_dropped(extended);
    house.say(&line("extend", 4, "ip", extended, 60, &[]));
    gate.until_passes(short);
    std::thread::sleep(Duration::from_millis(8500).saturating_sub(start.elapsed()));
    gate.until_dropped(extended);
    assert!(start.elapsed() < Duration::from_secs(40), "too slow to tell anything");
}

#[test]
fn pycrowdsec_takes_the_stream_and_asks_live() {
    let house = Gatehouse::new();
    house.say(&started(1, "ip", "203.0.113.9", 600));
    house.say(&started(2, "range", "198.51.100.0/24", 600));
    house.say(&started(3, "user", "alice@example.org", 600));
    let script = r"
import sys, time
from pycrowdsec.client import QueryClient, StreamClient
key, url = sys.argv[1:]
stream = StreamClient(api_key=key, lapi_url=url, interval=1, scopes=('ip', 'range', 'username'))
stream.run()
live = QueryClient(api_key=key, lapi_url=url)
def show():
    print(stream.get_action_for('203.0.113.9'), stream.get_action_for('198.51.100.7'),
          stream.get_action_for('203.0.113.10'),
          len(live.get_decisions_for('198.51.100.7') or []), live.get_decisions_for('203.0.113.10'), flush=True)
show()
for line in sys.stdin:
    while stream.get_action_for('203.0.113.9') is not None:
        time.sleep(0.05)
    show()
    break
";
    let mut command = Command::new(peers().join("venv/bin/python"));
    command.args(["-c", script, KEY, &house.url()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Running::start(&mut command);
    let mut lines = BufReader::new(client.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ban ban None 1 None");
    house.say(&ended(1, "ip", "203.0.113.9"));
    writeln!(client.0.stdin.take().unwrap(), "go on").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "None ban None 1 None");
}

#[test]
fn the_custom_bouncer_of_debian_runs_a_script_for_a_lockout() {
    let house = Gatehouse::new();
    house.say(&started(1, "ip", "203.0.113.9", 600));
    let folder = tempfile::tempdir().unwrap();
    let (script, calls) = (folder.path().join("hook.sh"), folder.path().join("calls"));
    let text = format!("#!/bin/sh\necho \"$1 $2 $3 $4\" >>{}\n", calls.display());
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").arg("755").arg(&script).status().unwrap();
    let config = folder.path().join("bouncer.yaml");
    let (here, hook, url) = (folder.path().display(), script.display(), house.url());
    let text = format!(
        "bin_path: {hook}\nfeed_via_stdin: false\ntotal_retries: 0\npiddir: {here}/\nupdate_frequency: 100ms\n\
         cache_retention_duration: 1s\ndaemonize: true\nlog_mode: stdout\nlog_level: info\napi_url: {url}\n\
         api_key: {KEY}\nscopes: [ip, range, username]\nprometheus: {{enabled: false, listen_addr: 127.0.0.1, listen_port: 60602}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut command = Command::new(debian("bin/crowdsec-custom-bouncer"));
    command.arg("-c").arg(&config).stdout(log.try_clone().unwrap()).stderr(log);
    let _bouncer = Running::start(&mut command);
    let called = |text: &str| {
        let what =
            format!("{text} in {} (log: {})", read(&calls), read(&folder.path().join("log")));
        wait_until(&what, || read(&calls).lines().any(|line| line.starts_with(text)));
    };
    called("add 203.0.113.9 ");
    house.say(&started(2, "user", "alice@example.org", 600));
    called("add alice@example.org ");
    house.say(&ended(2, "user", "alice@example.org"));
    called("del alice@example.org ");
    // Once each, and the right time.
    let all = read(&calls);
    assert_eq!(all.lines().count(), 3, "{all}");
    let locked = all.lines().find(|line| line.starts_with("add alice")).unwrap();
    let seconds: i64 = locked.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((500..=600).contains(&seconds), "{locked}");
    assert!(locked.ends_with(" failed-login-ip"), "{locked}");
}

#[test]
fn the_node_bouncer_takes_the_stream_and_asks_live() {
    let house = Gatehouse::new();
    house.say(&started(1, "ip", "203.0.113.9", 600));
    house.say(&started(2, "range", "198.51.100.0/24", 600));
    let script = r"
const [file, key, url] = process.argv.slice(1);
const { CrowdSecBouncer } = await import(file);
const at = async (bouncer, ip) => (await bouncer.getIpRemediation(ip)).remediation;
const stream = new CrowdSecBouncer({ url, bouncerApiToken: key, streamMode: true });
const live = new CrowdSecBouncer({ url, bouncerApiToken: key, streamMode: false });
const all = ['203.0.113.9', '198.51.100.7', '203.0.113.10'];
const show = async (bouncer) => {
  const words = [];
  for (const ip of all) words.push(await at(bouncer, ip));
  console.log('#', words.join(' '));
};
await stream.refreshDecisions({ scopes: ['ip', 'range'] });
await show(stream);
await show(live);
for await (const _ of process.stdin) {
  await stream.refreshDecisions({ scopes: ['ip', 'range'] });
  await show(stream);
  await stream.pushUsageMetrics('test').then(() => console.log('# sent'));
  process.exit(0);
}
";
    let module = peers().join("node/node_modules/@crowdsec/nodejs-bouncer/dist/index.js");
    let url = house.url();
    let mut command = Command::new("node");
    command.args(["--input-type=module", "-e", script]).arg(module);
    command.args([KEY, url.trim_end_matches('/')]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Running::start(&mut command);
    let lines = BufReader::new(client.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut lines = lines.filter(|line| line.starts_with('#'));
    assert_eq!(lines.next().unwrap(), "# ban ban bypass");
    assert_eq!(lines.next().unwrap(), "# ban ban bypass");
    house.say(&ended(1, "ip", "203.0.113.9"));
    writeln!(client.0.stdin.take().unwrap(), "go on").unwrap();
    assert_eq!(lines.next().unwrap(), "# bypass ban bypass");
    assert_eq!(lines.next().unwrap(), "# sent");
}

/// The status of a request that says it comes from `from`.
fn status(port: u16, from: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--retry", "20"]);
    command.args(["--retry-connrefused", "--retry-delay", "1", "-H"]);
    command.arg(format!("X-Real-IP: {from}")).arg(format!("http://127.0.0.1:{port}/"));
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A house with something blocked, and its list in a file, fetched as firewalls do.
fn fetched(format: &str, to: &Path) {
    let house = Gatehouse::new();
    house.say(&started(1, "ip", "203.0.113.9", 600));
    house.say(&started(2, "range", "2001:db8:66::/64", 600));
    let url = format!("{}blocklist?format={format}", house.url());
    let mut command = Command::new("curl");
    command.args(["-sSf", "-u", &format!("portcullis:{KEY}"), "-o"]).arg(to).arg(url);
    assert!(command.status().unwrap().success());
}

#[test]
fn nginx_refuses_whom_the_list_names() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fetched("nginx", &here.join("blocked"));
    let port = free_port();
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/log; events {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;\n\
         geo $blocked {{ default 0; include {0}/blocked; }}\n\
         server {{ listen 127.0.0.1:{port}; if ($blocked) {{ return 403; }} location / {{ return 204; }} }} }}\n",
        here.display()
    );
    std::fs::write(here.join("conf"), text).unwrap();
    let nginx = || {
        let mut command = Command::new(debian("sbin/nginx"));
        command.arg("-p").arg(here).arg("-c").arg(here.join("conf"));
        command.arg("-e").arg(here.join("log"));
        command
    };
    let test = nginx().arg("-t").output().unwrap();
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
    let _server = Running::start(&mut nginx());
    let all = ["203.0.113.9", "203.0.113.10", "2001:db8:66::1", "2001:db8:67::1"];
    assert_eq!(all.map(|from| status(port, from)), ["403", "204", "403", "204"]);
}

#[test]
fn haproxy_refuses_whom_the_list_names() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fetched("haproxy", &here.join("blocked"));
    let port = free_port();
    let text = format!(
        "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n\
         frontend f\n  bind 127.0.0.1:{port}\n  acl blocked hdr_ip(X-Real-IP) -f {}/blocked\n  \
         http-request deny if blocked\n  http-request return status 200\n",
        here.display()
    );
    std::fs::write(here.join("conf"), text).unwrap();
    let haproxy = || {
        let mut command = Command::new(debian("sbin/haproxy"));
        command.env("LD_LIBRARY_PATH", debian("lib/x86_64-linux-gnu"));
        command.arg("-f").arg(here.join("conf"));
        command
    };
    let test = haproxy().arg("-c").output().unwrap();
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
    let _server = Running::start(haproxy().arg("-db"));
    let all = ["203.0.113.9", "203.0.113.10", "2001:db8:66::1", "2001:db8:67::1"];
    assert_eq!(all.map(|from| status(port, from)), ["403", "200", "403", "200"]);
}
