//! A gate and the road before it: two network namespaces joined by a wire, for tests in which real
//! packets pass or are dropped. Needs root, `ip` and `ping`; see `tests/nftables/fetch.sh`.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the names of all namespaces of tests begin with; the process and a number follow.
const PREFIX: &str = "portcullis-t";
/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Addresses of the gate: the whole of 203.0.113.0/24 and 2001:db8::/32 is on the wire.
pub const GATE_V4: &str = "203.0.113.1";
/// See [`GATE_V4`].
pub const GATE_V6: &str = "2001:db8::1";

/// Two namespaces: the gate, which is protected, and the road, from which others come. Both are
/// removed at the end, also of a test that panics.
#[derive(Debug)]
pub struct Gate {
    name: String,
    road: String,
}

/// A program by its name, found also where only root looks.
pub fn program(name: &str) -> String {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = folders.iter().map(|folder| format!("{folder}/{name}"));
    { found }.find(|path| Path::new(path).exists()).unwrap_or_else(|| {
        panic!("`{name}` is missing: run tests/nftables/fetch.sh fetch, which says what to install")
    })
}

fn ip(args: &str) -> Output {
    Command::new(program("ip")).args(args.split(' ')).output().unwrap()
}

fn must(args: &str) {
    let output = ip(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`ip {args}`: {said}; tests with network namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN)"
    );
}

/// Removes what tests left behind that were killed: namespaces whose process is no more.
fn sweep() {
    let Ok(all) = std::fs::read_dir("/run/netns") else { return };
    for name in all.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        let is_number = process.parse::<u32>().is_ok();
        if is_number && !Path::new("/proc").join(process).exists() {
            ip(&format!("netns del {name}"));
        }
    }
}

impl Gate {
    /// A gate with nothing in it, and its road.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        program("ping");
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let gate = Self { road: format!("{name}-road"), name };
        let (name, road) = (&gate.name, &gate.road);
        must(&format!("netns add {name}"));
        must(&format!("netns add {road}"));
        must(&format!("-n {name} link add wire type veth peer name wire netns {road}"));
        for side in [name, road] {
            must(&format!("-n {side} link set lo up"));
            must(&format!("-n {side} link set wire up"));
        }
        must(&format!("-n {name} addr add {GATE_V4}/24 dev wire"));
        must(&format!("-n {name} addr add {GATE_V6}/32 dev wire nodad"));
        gate
    }

    /// The protected namespace, as `ip netns exec` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that will run behind the gate; `path` is looked for as [`program`] does unless it
    /// is a path.
    pub fn command(&self, path: impl AsRef<str>) -> Command {
        inside(&self.name, path.as_ref())
    }

    /// A program that will run on the road; an address it is to use must have been
    /// [put there](Self::put).
    pub fn on_the_road(&self, path: impl AsRef<str>) -> Command {
        inside(&self.road, path.as_ref())
    }

    /// Puts somebody with an address of 203.0.113.0/24 or 2001:db8::/32 on the road.
    pub fn put(&self, from: &str) {
        let road = &self.road;
        match from.parse().unwrap() {
            IpAddr::V4(ip) => must(&format!("-n {road} addr replace {ip}/24 dev wire")),
            IpAddr::V6(ip) => must(&format!("-n {road} addr replace {ip}/32 dev wire nodad")),
        }
    }

    /// Whether a packet from `from` and the answer to it pass, the first within `seconds`.
    fn passes_within(&self, from: &str, seconds: u32) -> bool {
        self.put(from);
        let to = if from.contains(':') { GATE_V6 } else { GATE_V4 };
        // It goes on until the first answer or until the time is up.
        let args = format!("-n -q -c 1 -i 0.2 -w {seconds} -I {from} {to}");
        let output = self.on_the_road("ping").args(args.split(' ')).output().unwrap();
        match output.status.code() {
            Some(0) => true,
            Some(1) => false,
            _ => panic!("ping {args}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Whether packets from `from` pass.
    pub fn passes(&self, from: &str) -> bool {
        self.passes_within(from, 10)
    }

    /// Whether packets from `from` are dropped: for two seconds nothing comes back.
    pub fn is_dropped(&self, from: &str) -> bool {
        !self.passes_within(from, 2)
    }

    /// Waits until packets from `from` are dropped.
    pub fn until_dropped(&self, from: &str) {
        let start = Instant::now();
        // On a busy machine an answer may take a second.
        while self.passes_within(from, 1) || !self.is_dropped(from) {
            assert!(start.elapsed() < PATIENCE, "{from} still passes");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until packets from `from` pass.
    pub fn until_passes(&self, from: &str) {
        let seconds = u32::try_from(PATIENCE.as_secs()).unwrap();
        assert!(self.passes_within(from, seconds), "{from} is still dropped");
    }
}

fn inside(namespace: &str, path: &str) -> Command {
    let path = if path.contains('/') { path.to_owned() } else { program(path) };
    let mut command = Command::new(program("ip"));
    command.args(["netns", "exec", namespace, &path]);
    command
}

impl Drop for Gate {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
        ip(&format!("netns del {}", self.road));
    }
}

#[test]
fn a_wire_carries_packets_until_somebody_drops_them() {
    let gate = Gate::new();
    for (family, from, neighbour) in
        [("ip", "203.0.113.66", "203.0.113.67"), ("ip6", "2001:db8:66::abcd", "2001:db8:67::abcd")]
    {
        assert!(gate.passes(from));
        let table = format!(
            "add table inet t; add chain inet t c {{ type filter hook input priority 0; }}; \
             add rule inet t c {family} saddr {from} drop"
        );
        assert!(gate.command("nft").arg(table).status().unwrap().success());
        gate.until_dropped(from);
        assert!(gate.passes(neighbour));
        assert!(gate.command("nft").arg("delete table inet t").status().unwrap().success());
        gate.until_passes(from);
    }
}
