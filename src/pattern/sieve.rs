//! Finds the lines of a block in which some needle may stand, many needles in one pass.
//!
//! Every needle is represented by a *window* of at most four neighbouring bytes, the rarest in
//! logs. Windows are put into eight *groups*. For each place of a window a table says to which
//! groups a byte may belong there; the bitwise and of four look-ups says for a position of the text
//! which groups may begin there, and vector instructions look up many positions at once. What
//! passes is compared with the needles of its groups, byte by byte, so that the answer is exact.
//!
//! The same [pass] counts newlines and notices lines that begin with a blank.

mod pass;

pub use pass::Room;

use crate::decode::word::Word;
use pass::{LANES, Progress, Tables, Way};

/// Bytes of a window.
const WIDTH: usize = 4;
/// Groups of windows: the bits of a byte.
const GROUPS: usize = 8;

/// A text to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    /// The text; ASCII letters in lower case if `fold`. A very short one stands in many lines.
    pub text: Vec<u8>,
    /// ASCII letters may be of any case.
    pub fold: bool,
}

/// What may stand in one place of a window, as far as the tables can tell: the low and the high
/// halves of its bytes, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Halves {
    low: u16,
    high: u16,
}

type Places = [Halves; WIDTH];

#[derive(Debug, Clone)]
struct Window {
    needle: usize,
    /// Where in the needle it begins.
    offset: usize,
    places: Places,
}

/// The needles, ready to be looked for.
#[derive(Debug, Clone)]
pub struct Sieve {
    needles: Vec<Needle>,
    tables: Tables,
    way: Way,
    groups: [Vec<Member>; GROUPS],
    ordinary: Vec<Ordinary>,
}

/// A text that stands in nearly every line from where the window of a needle begins, and does not matter
/// with a letter behind it.
#[derive(Debug, Clone)]
struct Ordinary {
    begin: Word,
    /// The next ones, and how many there are.
    next: Word,
    len: usize,
}

impl Ordinary {
    /// Whether this is what stands at `at`.
    #[inline]
    fn stands(&self, text: &[u8], at: usize) -> bool {
        let Some((first, behind)) = text.get(at..).and_then(|rest| rest.split_first_chunk()) else {
            return false;
        };
        self.begin.begins(u64::from_le_bytes(*first))
            && self.next.begins(Word::of(behind).bytes)
            && behind.get(self.len).is_some_and(u8::is_ascii_alphabetic)
    }
}

/// A needle in a group.
#[derive(Debug, Clone, Copy)]
struct Member {
    needle: usize,
    /// Bytes of the needle.
    len: usize,
    /// Where in the needle its window begins.
    offset: usize,
    /// The window, and which of its bits tell it apart.
    window: u32,
    telling: u32,
    /// How the needle begins, in the case it is kept in.
    begin: Word,
    /// Bits to set in a text before it is compared: the case of letters that may be of any.
    case: u64,
}

impl Halves {
    const ANY: Self = Self { low: u16::MAX, high: u16::MAX };

    fn of(byte: u8, fold: bool) -> Self {
        let one = |byte: u8| Self { low: 1 << (byte & 15), high: 1 << (byte >> 4) };
        if fold { one(byte).join(one(byte.to_ascii_uppercase())) } else { one(byte) }
    }

    fn join(self, other: Self) -> Self {
        Self { low: self.low | other.low, high: self.high | other.high }
    }

    fn holds(self, byte: u8) -> bool {
        (self.low >> (byte & 15)) & (self.high >> (byte >> 4)) & 1 == 1
    }
}

fn join(a: &Places, b: &Places) -> Places {
    let mut joined = *a;
    joined.iter_mut().zip(b).for_each(|(a, b)| *a = a.join(*b));
    joined
}

/// Lines as loggers write them. What stands in them often makes a bad window; it decides how fast
/// the pass is, never what it finds.
const SAMPLE: &str = concat!(
    r#"{"timestamp": "2025-08-03T22:30:00.123456+00:00", "level": "INFO", "logger": "fastapi", "message": "GET /api/v1/users/42?page=3&limit=50 200 in 17 ms", "module": "middleware", "function": "log_request", "line": 87, "user_id": "70340400-0cfd-4665-af41-1ce5293e9fca", "request_id": "9e9e2fa4", "ip_address": "198.51.100.52"}"#,
    "\n",
    r#"{"level":"info","ts":"2025-08-03T22:30:00.123Z","logger":"http","caller":"server/handler.go:142","msg":"request handled","method":"PATCH","path":"/v1/generate/storage","status":201,"duration_ms":12.7,"remote_addr":"198.51.100.7:51820","user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}"#,
    "\n",
    r#"{"level":30,"time":1754260200123,"pid":17,"hostname":"web-6b7f9","reqId":"req-1a","req":{"method":"GET","url":"/items","host":"example.org","remoteAddress":"198.51.100.7"},"res":{"statusCode":304},"responseTime":4.2,"msg":"request completed"}"#,
    "\n",
    r#"{"log":"{\"severity\":\"INFO\",\"thread\":\"main\",\"message\":\"cache refreshed, 1250 entries were updated in 38 ms\"}\n","stream":"stdout","time":"2025-08-03T22:30:00.123456789Z"}"#,
    "\n",
    r#"{"message":"Started GET \"/dashboard/settings\" for 198.51.100.7","severity":"INFO","timestamp":"2025-08-03T22:30:00.000000000Z","attributes":{"service":"worker","environment":"production","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}}"#,
    "\n",
    r#"198.51.100.7 - - [03/Aug/2025:22:30:00 +0000] "GET /static/application-8f3c.css HTTP/1.1" 200 5120 "https://example.org/" "Mozilla/5.0 (Windows NT 10.0; Win64; x64)""#,
    "\n",
    "2025-08-03 22:30:00.123 DEBUG 7 --- [nio-8080-exec-3] o.s.web.servlet.DispatcherServlet : Completed 200 OK, user profile was read from the database\n",
);

/// The different windows of the sample, with how often each stands there, by their first byte: hundreds of
/// questions are asked of them at the start, most of which are about few first bytes.
type Alike = (u8, Vec<([u8; WIDTH], u32)>);

fn sample() -> Vec<Alike> {
    let mut windows: Vec<[u8; WIDTH]> =
        SAMPLE.as_bytes().windows(WIDTH).filter_map(|w| w.try_into().ok()).collect();
    windows.sort_unstable();
    let mut sample: Vec<Alike> = Vec::new();
    for run in windows.chunk_by(|a, b| a == b) {
        let (Some(window), Ok(count)) = (run.first(), u32::try_from(run.len())) else { continue };
        match sample.last_mut() {
            Some((first, windows)) if *first == window[0] => windows.push((*window, count)),
            _ => sample.push((window[0], vec![(*window, count)])),
        }
    }
    sample
}

/// How often a window of these places seems to stand in logs: what of the sample it takes, and
/// then how many texts of any kind.
fn cost(places: &Places, sample: &[Alike]) -> (u32, u64) {
    let fits = |window: &[u8; WIDTH]| places.iter().zip(window).all(|(place, b)| place.holds(*b));
    let near = sample.iter().filter(|(first, _)| places[0].holds(*first));
    let windows = near.flat_map(|(_, windows)| windows);
    let taken = windows.filter(|(window, _)| fits(window)).map(|(_, n)| n).sum();
    let size = |place: &Halves| u64::from(place.low.count_ones() * place.high.count_ones());
    (taken, places.iter().map(size).product())
}

impl Window {
    /// The window of a needle that is rarest in logs.
    fn of(needle: usize, text: &Needle, sample: &[Alike]) -> Self {
        let last = text.text.len().saturating_sub(WIDTH);
        let at = |offset: usize| {
            let mut places = [Halves::ANY; WIDTH];
            for (place, byte) in places.iter_mut().zip(text.text.get(offset..).unwrap_or_default())
            {
                *place = Halves::of(*byte, text.fold);
            }
            Window { needle, offset, places }
        };
        // There is always one; of equal ones the first.
        let best = (0..=last).map(at).min_by_key(|window| cost(&window.places, sample));
        best.unwrap_or_else(|| at(0))
    }
}

/// Windows together.
struct Group {
    windows: Vec<Window>,
    /// The places that hold all of them.
    places: Places,
    /// What of the sample they take.
    taken: u32,
}

/// Puts windows together until there are no more than [`GROUPS`] groups, always those two that
/// cost least together.
fn grouped(windows: Vec<Window>, sample: &[Alike]) -> Vec<Group> {
    let mut groups: Vec<Option<Group>> = windows
        .into_iter()
        .map(|window| {
            let places = window.places;
            Some(Group { windows: vec![window], places, taken: cost(&places, sample).0 })
        })
        .collect();
    let more = |groups: &[Option<Group>], i: usize, j: usize| {
        let (Some(Some(a)), Some(Some(b))) = (groups.get(i), groups.get(j)) else { return None };
        let (taken, size) = cost(&join(&a.places, &b.places), sample);
        Some((taken - a.taken.max(b.taken), size))
    };
    let mut pairs: Vec<((u32, u64), usize, usize)> = Vec::new();
    let mut left = groups.len();
    for j in 0..groups.len() {
        pairs.extend((0..j).filter_map(|i| Some((more(&groups, i, j)?, i, j))));
    }
    while left > GROUPS {
        let Some((_, i, j)) = pairs.iter().min().copied() else { break };
        let Some(Some(gone)) = groups.get_mut(j).map(Option::take) else { break };
        if let Some(Some(into)) = groups.get_mut(i) {
            into.windows.extend(gone.windows);
            into.places = join(&into.places, &gone.places);
            into.taken = cost(&into.places, sample).0;
        }
        left -= 1;
        pairs.retain(|(_, a, b)| ![*a, *b].contains(&j));
        for (worth, a, b) in pairs.iter_mut().filter(|(_, a, b)| [*a, *b].contains(&i)) {
            *worth = more(&groups, *a, *b).unwrap_or(*worth);
        }
    }
    groups.into_iter().flatten().collect()
}

impl Member {
    fn of(needle: &Needle, window: &Window) -> Self {
        let case = |byte: &u8| if needle.fold && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
        let case: Vec<u8> = needle.text.iter().map(case).collect();
        let (mut bytes, mut telling) = ([0; WIDTH], [0; WIDTH]);
        let behind = needle.text.iter().zip(&case).skip(window.offset);
        for ((to, telling), (byte, case)) in bytes.iter_mut().zip(&mut telling).zip(behind) {
            (*to, *telling) = (*byte, !case);
        }
        let telling = u32::from_le_bytes(telling);
        Self {
            needle: window.needle,
            len: needle.text.len(),
            offset: window.offset,
            window: u32::from_le_bytes(bytes) & telling,
            telling,
            begin: Word::of(&needle.text),
            case: Word::of(&case).bytes,
        }
    }

    /// The needle, if it stands where its window begins at `at`.
    #[inline]
    fn stands(&self, needles: &[Needle], text: &[u8], at: usize) -> Option<Found> {
        let start = at.checked_sub(self.offset)?;
        let found = Found { needle: self.needle, start, end: start + self.len };
        if let Some(first) = text.get(start..).and_then(|rest| rest.first_chunk()) {
            if !self.begin.begins(u64::from_le_bytes(*first) | self.case) {
                return None;
            }
            if self.len <= 8 {
                return Some(found);
            }
        }
        let needle = needles.get(self.needle)?;
        let there = text.get(start..found.end)?;
        let same = if needle.fold {
            there.eq_ignore_ascii_case(&needle.text)
        } else {
            there == needle.text
        };
        same.then_some(found)
    }
}

impl Sieve {
    /// A sieve for `needles`, none of which holds a newline.
    pub fn new(needles: Vec<Needle>) -> Self {
        let sample = sample();
        let windows = needles.iter().enumerate();
        let windows = windows.map(|(n, needle)| Window::of(n, needle, &sample)).collect();
        let mut tables = [[0; 256]; WIDTH];
        let mut groups: [Vec<Member>; GROUPS] = Default::default();
        for (number, (Group { windows, .. }, group)) in
            grouped(windows, &sample).into_iter().zip(&mut groups).enumerate()
        {
            let bit = 1u8 << number;
            for window in &windows {
                for (place, table) in window.places.iter().zip(&mut tables) {
                    for (byte, of) in (0..=u8::MAX).zip(table) {
                        *of |= if place.holds(byte) { bit } else { 0 };
                    }
                }
            }
            group.extend(
                windows
                    .iter()
                    .filter_map(|window| Some(Member::of(needles.get(window.needle)?, window))),
            );
        }
        let way = Way::all().next().unwrap_or(Way::Single);
        Self { needles, tables: Tables::new(tables), way, groups, ordinary: Vec::new() }
    }

    /// Passes over a needle where what stands there is `text`, which begins with it, and a letter. It is a
    /// matter of speed: whoever is asked about such a place must say no.
    pub fn pass_over(&mut self, needle: usize, text: &[u8]) {
        let members = || self.groups.iter().flatten();
        let Some(own) = members().find(|member| member.needle == needle) else { return };
        let from = text.get(own.offset..).unwrap_or_default();
        let Some((first, rest)) = from.split_first_chunk::<8>() else { return };
        let (begin, next) = (Word::of(first), Word::of(rest));
        if rest.len() > 8 {
            return;
        }
        // No other needle may have its window in the same place.
        let window = begin.bytes as u32;
        if members().all(|one| one.needle == needle || window & one.telling != one.window) {
            self.ordinary.push(Ordinary { begin, next, len: rest.len() });
        }
    }

    /// Goes through `text`, which must be shorter than 4 GiB; `room` is used for nothing else.
    pub fn walk<'s>(&'s self, text: &'s [u8], mut room: Room) -> Walk<'s> {
        room.fit(text);
        let progress =
            Progress { blanks: u64::from(is_blank_line(text, 0)), ..Progress::default() };
        Walk { sieve: self, text, room, progress, step: 0, done: 0, at: 0, line: 0 }
    }

    /// The first needle that `wanted` accepts and that really stands where a window of one of
    /// `groups` begins at `at`.
    fn confirmed(
        &self,
        text: &[u8],
        at: usize,
        mut groups: u8,
        wanted: &mut impl FnMut(Found) -> bool,
    ) -> Option<Found> {
        let window = text.get(at..).and_then(|rest| rest.first_chunk());
        let window = window.map(|window| u32::from_le_bytes(*window));
        while groups != 0 {
            let group = self.groups.get(groups.trailing_zeros() as usize)?;
            groups &= groups - 1;
            for member in group {
                // What a group was put together of is told apart at one glance.
                if window.is_some_and(|window| window & member.telling != member.window) {
                    continue;
                }
                let found = member.stands(&self.needles, text, at);
                if let Some(found) = found.filter(|found| wanted(*found)) {
                    return Some(found);
                }
            }
        }
        None
    }
}

/// A needle that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub needle: usize,
    /// Where it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// A text on its way through a sieve.
#[derive(Debug)]
pub struct Walk<'s> {
    sieve: &'s Sieve,
    text: &'s [u8],
    room: Room,
    progress: Progress,
    /// The step that is looked at, of those that were passed last.
    step: usize,
    /// Positions of it that are not to be looked at again.
    done: u64,
    /// What begins before this is left out.
    at: usize,
    /// Newlines before what was found last.
    line: u64,
}

impl Walk<'_> {
    /// The next needle that `wanted` accepts. Needles may overlap and are found in the order of
    /// their windows.
    pub fn next(&mut self, mut wanted: impl FnMut(Found) -> bool) -> Option<Found> {
        loop {
            while self.step < self.progress.filled {
                let step = self.room.step(self.step)?;
                // What lies before the jump.
                let before = self.at.saturating_sub(step.base);
                let behind = if before < LANES { u64::MAX << before } else { 0 };
                let mut begin = step.begin & behind & !self.done;
                while begin != 0 {
                    let lane = begin.trailing_zeros() as usize;
                    begin &= begin - 1;
                    let (at, groups) = (step.base + lane, step.groups(lane));
                    if self.sieve.ordinary.iter().any(|text| text.stands(self.text, at)) {
                        continue;
                    }
                    let found = self.sieve.confirmed(self.text, at, groups, &mut wanted);
                    if found.is_some() {
                        self.line = step.newlines_before(lane);
                        self.done = !begin;
                        return found;
                    }
                }
                self.done = 0;
                self.step += 1;
            }
            if self.progress.base >= self.text.len() {
                return None;
            }
            let Sieve { tables, way, .. } = self.sieve;
            self.progress = tables.pass(self.text, *way, &mut self.room, self.progress);
            self.step = 0;
        }
    }

    /// The room that it took.
    pub fn into_room(self) -> Room {
        self.room
    }

    /// Leaves out what begins before `at`, the beginning of a line.
    pub fn jump(&mut self, at: usize) {
        self.at = at;
    }

    /// Newlines before what was found last.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Newlines of the text, once nothing more was found.
    pub fn newlines(&self) -> u64 {
        u64::from(self.progress.newlines)
    }

    /// Lines that hold only blanks, once nothing more was found.
    pub fn blank_lines(&self) -> u64 {
        self.progress.blanks
    }
}

/// Whether the line that begins at `start`, before the end of the text, holds only blanks.
pub fn is_blank_line(text: &[u8], start: usize) -> bool {
    let rest = text.get(start..).unwrap_or_default();
    let first = rest.iter().find(|b| **b == b'\n' || !b.is_ascii_whitespace());
    !rest.is_empty() && first.is_none_or(|b| *b == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn needles() -> Vec<Needle> {
        let fold = ["err", "crit", "level"].map(|text| (text, true));
        let exact =
            ["FAILED_LOGIN:", "\\u", "\\x", "\u{1b}", "\"stream\"", " stdout P", "security-info"];
        let exact = exact.map(|text| (text, false)).into_iter();
        fold.into_iter()
            .chain(exact)
            .map(|(text, fold)| Needle { text: text.as_bytes().to_vec(), fold })
            .collect()
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => prop::sample::select(vec![
                "FAILED_LOGIN:", "FAILED_LOGI", "eRR", "CRIT", "LEVEL", "lev", "\\u", "\\", "x", "\u{1b}",
                "\"stream\"", " stdout P", "security-info", "security-inf",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            3 => Just(b"\n".to_vec()),
            1 => prop::sample::select(vec![" ", "\t", "\r", "\u{b}", "\u{c}"]).prop_map(|t| t.as_bytes().to_vec()),
            3 => prop::collection::vec(any::<u8>(), 1..40),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// Every place of every needle, by looking everywhere.
    fn naive(text: &[u8]) -> Vec<Found> {
        let mut all = Vec::new();
        for (number, needle) in needles().iter().enumerate() {
            for start in 0..text.len() {
                let end = start + needle.text.len();
                let Some(there) = text.get(start..end) else { continue };
                let same = if needle.fold {
                    there.eq_ignore_ascii_case(&needle.text)
                } else {
                    there == needle.text
                };
                if same {
                    all.push(Found { needle: number, start, end });
                }
            }
        }
        all.sort_by_key(|found| (found.start, found.needle));
        all
    }

    /// By each way that this processor can go, in room that another text has filled.
    fn walks(sieve: &mut Sieve, mut with: impl FnMut(Way, Walk<'_>), text: &[u8]) {
        for way in Way::all() {
            sieve.way = way;
            let mut used = sieve.walk(b"\n\nlevel", Room::default());
            used.next(|_| false);
            with(way, sieve.walk(text, used.into_room()));
        }
    }

    #[test]
    fn what_is_ordinary_hides_no_other_needle() {
        let ordinary = br#"level": ""#;
        for (text, hidden) in
            [(&br#"level": "x"#[..], true), (br#"level": "1"#, false), (br#"LEVEL": "x"#, false)]
        {
            // One of them may lie in the same place, or begin inside.
            for other in ["le", "level\"", "eve", "vel\": \"x", "el\": ", "xyz"] {
                let needle = |text: &str, fold| Needle { text: text.into(), fold };
                let needles = vec![needle("level", true), needle(other, true)];
                let mut sieve = Sieve::new(needles);
                sieve.pass_over(0, ordinary);
                let sieve = &mut sieve;
                walks(
                    sieve,
                    |way, mut walk| {
                        let mut found = [false; 2];
                        walk.next(|one| {
                            found[one.needle] = true;
                            false
                        });
                        let text = text.to_ascii_lowercase();
                        let stands = memchr::memmem::find(&text, other.as_bytes()).is_some();
                        assert_eq!(found[1], stands, "{other} {way:?}");
                        assert!(found[0] || hidden, "{other} {way:?}");
                    },
                    text,
                );
            }
            let mut alone = Sieve::new(vec![Needle { text: b"level".to_vec(), fold: true }]);
            alone.pass_over(0, ordinary);
            walks(
                &mut alone,
                |_, mut walk| assert_eq!(walk.next(|_| true).is_none(), hidden),
                text,
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_finds_every_needle_and_counts_every_line(text in text(), before in 0..40_000usize) {
            // Long enough to be passed in several goes.
            let text = [vec![b'\n'; before % 7], vec![b'-'; before], text].concat();
            let newlines_before = |at| text[..at].iter().filter(|b| **b == b'\n').count() as u64;
            let blank = crate::source::lines::split_lines(&text)
                .filter(|line| line.iter().all(u8::is_ascii_whitespace))
                .count() as u64;
            walks(&mut Sieve::new(needles()), |way, mut walk| {
                let mut found = Vec::new();
                // Taken and passed over in turns.
                while let Some(one) = walk.next(|one| { found.push(one); found.len() % 2 == 0 }) {
                    assert_eq!(Some(&one), found.last(), "{way:?}");
                    assert_eq!(walk.line(), newlines_before(one.start), "{way:?}");
                }
                found.sort_by_key(|found| (found.start, found.needle));
                assert_eq!(found, naive(&text), "{way:?}");
                assert_eq!(walk.newlines(), newlines_before(text.len()), "{way:?}");
                assert_eq!(walk.blank_lines(), blank, "{way:?}");
            }, &text);
        }

        #[test]
        fn a_jump_leaves_out_what_lies_before_it(text in text(), before in 0..20_000usize) {
            let text = [text.clone(), vec![b'-'; before], text].concat();
            walks(&mut Sieve::new(needles()), |way, mut walk| {
                let mut at = 0;
                while let Some(found) = walk.next(|_| true) {
                    let first = naive(&text[at..]).first().map(|f| f.start + at);
                    let line = |at: usize| text[..at].iter().filter(|b| **b == b'\n').count();
                    assert_eq!(Some(line(found.start)), first.map(line), "{way:?}");
                    let end = text[found.end..].iter().position(|b| *b == b'\n');
                    at = end.map_or(text.len(), |n| found.end + n + 1);
                    walk.jump(at);
                }
                assert!(naive(&text[at..]).is_empty(), "{way:?}");
            }, &text);
        }
    }
}
