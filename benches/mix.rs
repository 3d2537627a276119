//! The streams that are measured: seeded, the same bytes on every machine, written as fast as they
//! are read, so that the biggest of them never needs a disk.
//!
//! All are lines of the home format as Python's `json.dumps` writes it. A shorter stream is the
//! beginning of a longer one, except for the floods, which always fill one hour of event time.
#![allow(dead_code, reason = "each program uses some of it")]

use portcullis::decode::time;
use std::io::{self, Write};

/// The seed of everything that is published.
pub const SEED: u64 = 42;

/// 2025-08-03T22:30:00Z.
const START_US: i64 = 1_754_260_200_000_000;
const HOUR_US: u64 = 3_600_000_000;
/// Between two lines of the traffic mixes: 4,000,000 lines fill an hour.
const STEP_US: u64 = 900;
/// Lines are handed on in blocks of this size.
const BLOCK: usize = 1 << 20;

/// Hidden in the flood of [`Mix::Hidden`]: addresses that fail to log in often enough to be blocked.
pub const ATTACKERS: u64 = 100;
/// How often each of them fails within the hour.
pub const ATTEMPTS: u64 = 40;
/// What their addresses begin with; no other address does.
pub const ATTACKER_PREFIX: &str = "90.0.0.";

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Ordinary traffic: 2 % failed logins, 3 % successful ones, 0.5 % rate limit violations.
    A,
    /// An attack: 90 % failed logins from 1,000,000 addresses on 100,000 accounts in an hour.
    B,
    /// Request lines with status, path and duration as fields of their own; 5 % have status 401.
    C,
    /// Mix A inside Docker's json-file envelope.
    E,
    /// One failed login from each of many addresses, all different, with no account.
    Addresses,
    /// One failed login of each of many accounts, all different, with no address.
    Users,
    /// [`Mix::Addresses`] with a hundred attackers among them.
    Hidden,
}

impl Mix {
    pub const ALL: [Self; 7] =
        [Self::A, Self::B, Self::C, Self::E, Self::Addresses, Self::Users, Self::Hidden];

    /// What it is called on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::E => "e",
            Self::Addresses => "d-addresses",
            Self::Users => "d-users",
            Self::Hidden => "d50",
        }
    }

    /// Lines of the full size.
    pub fn full(self) -> u64 {
        match self {
            Self::A | Self::B | Self::C | Self::E => 4_000_000,
            Self::Addresses | Self::Users => 10_000_000,
            Self::Hidden => 50_000_000,
        }
    }

    /// Writes `lines` lines.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(self, lines: u64, out: &mut impl Write) -> io::Result<()> {
        let mut made = Lines::new(self, SEED, lines);
        let mut block = Vec::with_capacity(BLOCK + 4096);
        for _ in 0..lines {
            made.push(&mut block);
            if block.len() >= BLOCK {
                out.write_all(&block)?;
                block.clear();
            }
        }
        out.write_all(&block)?;
        out.flush()
    }

    /// `lines` lines in memory.
    pub fn text(self, lines: u64) -> Vec<u8> {
        let mut made = Lines::new(self, SEED, lines);
        let mut text = Vec::new();
        for _ in 0..lines {
            made.push(&mut text);
        }
        text
    }
}

/// How many of a thousand lines are what, and how many there are of whom.
struct Shares {
    failed: u64,
    successful: u64,
    limited: u64,
    addresses: u64,
    /// So many of the addresses cause a sixteenth of the failures and half of the violations.
    hot: u64,
    users: u64,
}

const TRAFFIC: Shares =
    Shares { failed: 20, successful: 30, limited: 5, addresses: 20_000, hot: 200, users: 50_000 };
const ATTACK: Shares = Shares {
    failed: 900,
    successful: 0,
    limited: 0,
    addresses: 1_000_000,
    hot: 10_000,
    users: 100_000,
};

/// A stream, line by line.
pub struct Lines {
    mix: Mix,
    dice: Dice,
    stamp: Stamp,
    /// Of the next line.
    at: u64,
    total: u64,
    step_us: u64,
    inner: Vec<u8>,
}

impl Lines {
    /// A stream of `total` lines; only the floods need to know how many there will be.
    pub fn new(mix: Mix, seed: u64, total: u64) -> Self {
        let flood = matches!(mix, Mix::Addresses | Mix::Users | Mix::Hidden);
        let step_us = if flood { HOUR_US / total.max(1) } else { STEP_US };
        let (dice, inner) = (Dice(seed), Vec::with_capacity(1024));
        Self { mix, dice, stamp: Stamp::new(), at: 0, total, step_us, inner }
    }

    /// Appends the next line.
    pub fn push(&mut self, out: &mut Vec<u8>) {
        self.stamp.set(self.at * self.step_us);
        match self.mix {
            Mix::A => self.traffic(&TRAFFIC, out),
            Mix::B => self.traffic(&ATTACK, out),
            Mix::C => self.structured(out),
            Mix::E => self.enveloped(out),
            Mix::Addresses => self.lone_address(out),
            Mix::Users => self.lone_user(out),
            Mix::Hidden => self.hidden(out),
        }
        self.at += 1;
    }

    /// Appends a line, at the time of the next one, that raises an alert at once: its type was
    /// never seen before.
    pub fn push_suspicious(&mut self, number: u64, out: &mut Vec<u8>) {
        self.stamp.set(self.at * self.step_us);
        self.head("WARNING", "security", out);
        out.extend_from_slice(b"SUSPICIOUS_ACTIVITY: type=odd-");
        decimal(number, out);
        out.extend_from_slice(b", details={'count': 3, 'known': False}");
        out.extend_from_slice(
            b"\", \"module\": \"security\", \"function\": \"log_event\", \"line\": 77",
        );
        self.tail(None, out);
        self.at += 1;
    }

    fn traffic(&mut self, shares: &Shares, out: &mut Vec<u8>) {
        let kind = self.dice.roll(1000);
        if kind < shares.failed {
            let hot = self.dice.roll(16) == 0;
            let among = if hot { shares.hot } else { shares.addresses };
            let address = scattered(self.dice.roll(among));
            let user = self.dice.roll(shares.users);
            self.head("WARNING", "security", out);
            out.extend_from_slice(b"FAILED_LOGIN: email=u");
            decimal(user, out);
            out.extend_from_slice(b"@example.org, ip=");
            dotted(address, out);
            out.extend_from_slice(b", reason=");
            out.extend_from_slice(REASONS[self.dice.pick(REASONS.len())]);
            out.extend_from_slice(
                b"\", \"module\": \"auth\", \"function\": \"login\", \"line\": 42",
            );
            self.tail(Some(address), out);
        } else if kind < shares.failed + shares.successful {
            let address = scattered(self.dice.roll(shares.addresses));
            let user = self.dice.roll(shares.users);
            self.head("INFO", "security", out);
            out.extend_from_slice(b"SUCCESSFUL_LOGIN: user_id=");
            uuid(user, out);
            out.extend_from_slice(b", ip=");
            dotted(address, out);
            out.extend_from_slice(
                b"\", \"module\": \"auth\", \"function\": \"login\", \"line\": 58",
            );
            self.tail(Some(address), out);
        } else if kind < shares.failed + shares.successful + shares.limited {
            let hot = self.dice.roll(2) == 0;
            let among = if hot { shares.hot } else { shares.addresses };
            let address = scattered(self.dice.roll(among));
            self.head("WARNING", "security", out);
            out.extend_from_slice(b"RATE_LIMIT_VIOLATION: ip=");
            dotted(address, out);
            out.extend_from_slice(b", endpoint=/api/v1/auth/login\", \"module\": \"limits\", \"function\": \"check\", \"line\": 91");
            self.tail(Some(address), out);
        } else {
            self.request(shares, out);
        }
    }

    fn request(&mut self, shares: &Shares, out: &mut Vec<u8>) {
        let address = scattered(self.dice.roll(shares.addresses));
        let (user, item) = (self.dice.roll(shares.users), self.dice.roll(1 << 40));
        let (verb, path, function) = ROUTES[self.dice.pick(ROUTES.len())];
        let (page, took) = (self.dice.roll(500), self.dice.roll(400));
        self.head("INFO", "fastapi", out);
        out.extend_from_slice(verb);
        out.push(b' ');
        out.extend_from_slice(path);
        hex(item, 10, out);
        out.extend_from_slice(b"?page=");
        decimal(page, out);
        out.extend_from_slice(b"&limit=50 200 in ");
        decimal(took, out);
        out.extend_from_slice(b" ms\", \"module\": \"middleware\", \"function\": \"");
        out.extend_from_slice(function);
        out.extend_from_slice(b"\", \"line\": ");
        decimal(100 + page, out);
        out.extend_from_slice(b", \"user_id\": \"");
        uuid(user, out);
        out.push(b'"');
        self.tail(Some(address), out);
    }

    fn structured(&mut self, out: &mut Vec<u8>) {
        let address = scattered(self.dice.roll(5_000));
        let item = self.dice.roll(1 << 40);
        let (verb, path, function) = ROUTES[self.dice.pick(ROUTES.len())];
        let denied = self.dice.roll(100) < 5;
        let status = if denied { 401 } else { STATUSES[self.dice.pick(STATUSES.len())] };
        let took = self.dice.roll(4_000);
        self.head(if denied { "WARNING" } else { "INFO" }, "fastapi", out);
        out.extend_from_slice(b"request completed\", \"module\": \"middleware\", \"function\": \"");
        out.extend_from_slice(function);
        out.extend_from_slice(b"\", \"line\": ");
        decimal(100 + took % 400, out);
        out.extend_from_slice(b", \"method\": \"");
        out.extend_from_slice(verb);
        out.extend_from_slice(b"\", \"path\": \"");
        out.extend_from_slice(path);
        hex(item, 10, out);
        out.extend_from_slice(b"\", \"status\": ");
        decimal(status, out);
        out.extend_from_slice(b", \"duration_ms\": ");
        decimal(took / 10, out);
        out.push(b'.');
        decimal(took % 10, out);
        self.tail(Some(address), out);
    }

    fn enveloped(&mut self, out: &mut Vec<u8>) {
        let mut inner = std::mem::take(&mut self.inner);
        inner.clear();
        self.traffic(&TRAFFIC, &mut inner);
        inner.pop();
        out.extend_from_slice(b"{\"log\":\"");
        let mut from = 0;
        for at in memchr::memchr2_iter(b'"', b'\\', &inner) {
            out.extend_from_slice(&inner[from..at]);
            out.push(b'\\');
            from = at;
        }
        out.extend_from_slice(&inner[from..]);
        out.extend_from_slice(b"\\n\",\"stream\":\"stdout\",\"time\":\"");
        // Docker's clock has nine digits and a Z.
        out.extend_from_slice(&self.stamp.text[..26]);
        decimal(100 + self.dice.roll(900), out);
        out.extend_from_slice(b"Z\"}\n");
        self.inner = inner;
    }

    fn lone_address(&mut self, out: &mut Vec<u8>) {
        self.failed_without_user(scattered(self.at), out);
    }

    fn failed_without_user(&mut self, address: u32, out: &mut Vec<u8>) {
        self.head("WARNING", "security", out);
        out.extend_from_slice(b"FAILED_LOGIN: email=-, ip=");
        dotted(address, out);
        out.extend_from_slice(b", reason=invalid_password\", \"module\": \"auth\", \"function\": \"login\", \"line\": 42");
        self.tail(Some(address), out);
    }

    fn lone_user(&mut self, out: &mut Vec<u8>) {
        self.head("WARNING", "security", out);
        out.extend_from_slice(b"FAILED_LOGIN: email=u");
        hex(u64::from(scattered(self.at)), 8, out);
        out.extend_from_slice(b"@example.org, ip=-, reason=user_not_found\", \"module\": \"auth\", \"function\": \"login\", \"line\": 42");
        self.tail(None, out);
    }

    fn hidden(&mut self, out: &mut Vec<u8>) {
        // Evenly among the lines: each attacker comes again when all others had their turn.
        let every = (self.total / (ATTACKERS * ATTEMPTS)).max(2);
        if self.at % every == every / 2 && self.at / every < ATTACKERS * ATTEMPTS {
            let attacker = u32::try_from(self.at / every % ATTACKERS).unwrap_or(0);
            self.failed_without_user((90 << 24) + attacker, out);
        } else {
            self.lone_address(out);
        }
    }

    fn head(&self, level: &str, logger: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\": \"");
        out.extend_from_slice(&self.stamp.text);
        out.extend_from_slice(b"\", \"level\": \"");
        out.extend_from_slice(level.as_bytes());
        out.extend_from_slice(b"\", \"logger\": \"");
        out.extend_from_slice(logger.as_bytes());
        out.extend_from_slice(b"\", \"message\": \"");
    }

    fn tail(&mut self, address: Option<u32>, out: &mut Vec<u8>) {
        out.extend_from_slice(b", \"request_id\": \"");
        let id = self.dice.roll(u64::MAX);
        hex(id, 8, out);
        if let Some(address) = address {
            out.extend_from_slice(b"\", \"ip_address\": \"");
            dotted(address, out);
        }
        out.extend_from_slice(b"\"}\n");
    }
}

const REASONS: [&[u8]; 3] = [b"invalid_password", b"user_not_found", b"locked"];
const STATUSES: [u64; 8] = [200, 200, 200, 200, 201, 204, 304, 404];
/// Method, path and the function that logs it.
const ROUTES: [(&[u8], &[u8], &[u8]); 8] = [
    (b"GET", b"/api/v1/generations/", b"log_request"),
    (b"GET", b"/api/v1/projects/members/", b"log_request"),
    (b"POST", b"/api/v1/generations/", b"log_request"),
    (b"GET", b"/api/v1/users/profile/", b"log_request"),
    (b"PATCH", b"/api/v1/projects/settings/", b"log_request"),
    (b"GET", b"/api/v1/storage/signed-urls/", b"log_transfer"),
    (b"DELETE", b"/api/v1/generations/", b"log_request"),
    (b"GET", b"/api/v1/credits/balance/", b"log_request"),
];

/// A small generator with a fixed sequence (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        stirred(self.0) % sides
    }

    fn pick(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap_or(0)
    }
}

fn stirred(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The time of a line as Python's `isoformat` writes it.
struct Stamp {
    text: [u8; 32],
    second: u64,
}

impl Stamp {
    fn new() -> Self {
        Self { text: *b"0000-00-00T00:00:00.000000+00:00", second: u64::MAX }
    }

    /// `after_us` after the start. A second is formatted once, its fraction for every line.
    fn set(&mut self, after_us: u64) {
        let (second, mut fraction) = (after_us / 1_000_000, after_us % 1_000_000);
        if second != self.second {
            self.second = second;
            let at = START_US + i64::try_from(second * 1_000_000).unwrap_or(0);
            self.text[..19].copy_from_slice(&time::format(at).as_bytes()[..19]);
        }
        for digit in self.text[20..26].iter_mut().rev() {
            *digit = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
    }
}

/// The `n`-th address: looks random, never comes twice for `n` below 2^30, and lies between
/// 20.0.0.0 and 83.255.255.255, where no reserved range is.
fn scattered(n: u64) -> u32 {
    const MASK: u32 = (1 << 30) - 1;
    let mut x = (n as u32) & MASK;
    // Each step can be undone, so no two numbers meet.
    x = x.wrapping_mul(0x2c1b_3c6d) & MASK;
    x ^= x >> 16;
    x = x.wrapping_mul(0x297a_2d39) & MASK;
    x ^= x >> 15;
    (20 << 24) + x
}

fn decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

fn hex(n: u64, digits: u32, out: &mut Vec<u8>) {
    for at in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(n >> (at * 4) & 15) as usize]);
    }
}

fn dotted(address: u32, out: &mut Vec<u8>) {
    for (at, byte) in address.to_be_bytes().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        decimal(u64::from(byte), out);
    }
}

/// The id of an account, which is always the same for it.
fn uuid(user: u64, out: &mut Vec<u8>) {
    let (high, low) = (stirred(user + 1), stirred(user + (1 << 40)));
    hex(high >> 32, 8, out);
    for part in [high >> 16 & 0xffff, high & 0x0fff | 0x4000, low >> 48 & 0x3fff | 0x8000] {
        out.push(b'-');
        hex(part, 4, out);
    }
    out.push(b'-');
    hex(low, 12, out);
}
