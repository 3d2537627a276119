//! Finds the lines of a block in which some needle may stand, many needles in one pass.
//!
//! Every needle is represented by a *window* of at most four neighbouring bytes, the rarest in
//! logs. Windows are put into eight *groups*. Two tables per place of a window, one for the low and
//! one for the high half of a byte, say to which groups a byte may belong there; the bitwise and
//! of eight look-ups says for a position of the text which groups may begin there, and with the
//! vector instructions of AVX2 thirty-two positions are looked up at once. What passes is compared
//! with the needles of its groups, byte by byte, so that the answer is exact.
//!
//! The same pass counts newlines and notices lines that begin with a blank. Where the processor
//! has no AVX2, the same tables are asked one position at a time.

use crate::decode::word::Word;

/// Bytes of a window.
const WIDTH: usize = 4;
/// Groups of windows: the bits of a byte.
const GROUPS: usize = 8;
/// Positions looked up at once.
const LANES: usize = 32;
/// Bytes that must be readable from the first position of a step.
const REACH: usize = LANES + WIDTH - 1;

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
    groups: [Vec<Member>; GROUPS],
}

/// A needle in a group.
#[derive(Debug, Clone, Copy)]
struct Member {
    needle: usize,
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

/// To which groups a byte may belong, by place, for its low and its high half.
#[derive(Debug, Clone, Copy, Default)]
struct Tables {
    low: [[u8; 16]; WIDTH],
    high: [[u8; 16]; WIDTH],
}

/// What the tables say of [`LANES`] neighbouring positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    /// The first of them.
    base: usize,
    /// Positions at which a group may begin.
    begin: u32,
    /// Which groups, eight positions a word.
    groups: [u64; LANES / 8],
    /// Positions of newlines behind which a blank or control byte stands.
    blanks: u32,
}

/// Newlines of [`LANES`] neighbouring positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Newlines {
    /// How many stand before them.
    before: u32,
    /// Where they stand.
    at: u32,
}

/// What a pass over a whole text found. One that is done with is room for the next.
#[derive(Debug, Default)]
pub struct Pass {
    /// Steps in which there is something to look at.
    steps: Vec<Step>,
    /// By step.
    newlines: Vec<Newlines>,
    /// Newlines so far.
    count: u32,
}

impl Pass {
    /// Makes it ready for a text of so many steps.
    fn clear(&mut self, steps: usize) {
        self.steps.clear();
        self.newlines.clear();
        self.newlines.reserve(steps);
        self.count = 0;
    }

    #[inline]
    fn push(&mut self, step: Step, newlines: u32) {
        self.newlines.push(Newlines { before: self.count, at: newlines });
        self.count += newlines.count_ones();
        if (step.begin | step.blanks) != 0 {
            self.steps.push(step);
        }
    }
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

/// The different windows of the sample, with how often each stands there.
fn sample() -> Vec<([u8; WIDTH], u32)> {
    let mut windows: Vec<[u8; WIDTH]> =
        SAMPLE.as_bytes().windows(WIDTH).filter_map(|w| w.try_into().ok()).collect();
    windows.sort_unstable();
    let runs = windows.chunk_by(|a, b| a == b);
    runs.filter_map(|run| Some((*run.first()?, u32::try_from(run.len()).ok()?))).collect()
}

/// How often a window of these places seems to stand in logs: what of the sample it takes, and
/// then how many texts of any kind.
fn cost(places: &Places, sample: &[([u8; WIDTH], u32)]) -> (u32, u64) {
    let fits = |window: &[u8; WIDTH]| places.iter().zip(window).all(|(place, b)| place.holds(*b));
    let taken = sample.iter().filter(|(window, _)| fits(window)).map(|(_, n)| n).sum();
    let size = |place: &Halves| u64::from(place.low.count_ones() * place.high.count_ones());
    (taken, places.iter().map(size).product())
}

impl Window {
    /// The window of a needle that is rarest in logs.
    fn of(needle: usize, text: &Needle, sample: &[([u8; WIDTH], u32)]) -> Self {
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
fn grouped(windows: Vec<Window>, sample: &[([u8; WIDTH], u32)]) -> Vec<Group> {
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
            offset: window.offset,
            window: u32::from_le_bytes(bytes) & telling,
            telling,
            begin: Word::of(&needle.text),
            case: Word::of(&case).bytes,
        }
    }

    /// Where the needle begins and ends if it stands where its window begins at `at`.
    fn stands(&self, needle: &Needle, text: &[u8], at: usize) -> Option<(usize, usize)> {
        let start = at.checked_sub(self.offset)?;
        let end = start + needle.text.len();
        if let Some(first) = text.get(start..).and_then(|rest| rest.first_chunk()) {
            if !self.begin.begins(u64::from_le_bytes(*first) | self.case) {
                return None;
            }
            if needle.text.len() <= 8 {
                return Some((start, end));
            }
        }
        let there = text.get(start..end)?;
        let same = if needle.fold {
            there.eq_ignore_ascii_case(&needle.text)
        } else {
            there == needle.text
        };
        same.then_some((start, end))
    }
}

impl Sieve {
    /// A sieve for `needles`.
    pub fn new(needles: Vec<Needle>) -> Self {
        let sample = sample();
        let windows = needles.iter().enumerate();
        let windows = windows.map(|(n, needle)| Window::of(n, needle, &sample)).collect();
        let mut tables = Tables::default();
        let mut groups: [Vec<Member>; GROUPS] = Default::default();
        for (number, (Group { windows, places, .. }, group)) in
            grouped(windows, &sample).into_iter().zip(&mut groups).enumerate()
        {
            let bit = 1u8 << number;
            for (place, (low, high)) in
                places.iter().zip(tables.low.iter_mut().zip(&mut tables.high))
            {
                for (half, (low, high)) in low.iter_mut().zip(high).enumerate() {
                    *low |= if (place.low >> half) & 1 == 1 { bit } else { 0 };
                    *high |= if (place.high >> half) & 1 == 1 { bit } else { 0 };
                }
            }
            group.extend(
                windows
                    .iter()
                    .filter_map(|window| Some(Member::of(needles.get(window.needle)?, window))),
            );
        }
        Self { needles, tables, groups }
    }

    /// Goes through `text`, which must be shorter than 4 GiB; `room` is used for nothing else.
    pub fn walk<'s>(&'s self, text: &'s [u8], mut room: Pass) -> Walk<'s> {
        self.tables.pass(text, &mut room);
        Walk { sieve: self, text, pass: room, step: 0, at: 0 }
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
                let Some(needle) = self.needles.get(member.needle) else { continue };
                if let Some((start, end)) = member.stands(needle, text, at) {
                    let found = Found { needle: member.needle, start, end };
                    if wanted(found) {
                        return Some(found);
                    }
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
    pass: Pass,
    /// The step that is looked at.
    step: usize,
    /// What begins before this is left out.
    at: usize,
}

impl Walk<'_> {
    /// The next needle that `wanted` accepts. Needles may overlap and are found in the order of
    /// their windows.
    pub fn next(&mut self, mut wanted: impl FnMut(Found) -> bool) -> Option<Found> {
        while let Some(step) = self.pass.steps.get_mut(self.step) {
            while step.begin != 0 {
                let lane = step.begin.trailing_zeros() as usize;
                step.begin &= step.begin - 1;
                let at = step.base + lane;
                if at < self.at {
                    continue;
                }
                let word = step.groups.get(lane / 8).copied().unwrap_or(0);
                let groups = word.to_le_bytes()[lane % 8];
                let found = self.sieve.confirmed(self.text, at, groups, &mut wanted);
                if found.is_some() {
                    return found;
                }
            }
            self.step += 1;
        }
        None
    }

    /// The room that it took.
    pub fn into_room(self) -> Pass {
        self.pass
    }

    /// Leaves out what begins before `at`, the beginning of a line.
    pub fn jump(&mut self, at: usize) {
        self.at = at;
    }

    /// Newlines before a place.
    pub fn newlines_before(&self, at: usize) -> u64 {
        let newlines = self.pass.newlines.get(at / LANES).map(|newlines| {
            let before = newlines.at & ((1 << (at % LANES)) - 1);
            newlines.before + before.count_ones()
        });
        u64::from(newlines.unwrap_or(self.pass.count))
    }

    /// Lines that hold only blanks.
    pub fn blank_lines(&self) -> u64 {
        let mut blanks = u64::from(is_blank_line(self.text, 0));
        for step in &self.pass.steps {
            let mut newlines = step.blanks;
            while newlines != 0 {
                let newline = step.base + newlines.trailing_zeros() as usize;
                newlines &= newlines - 1;
                blanks += u64::from(is_blank_line(self.text, newline + 1));
            }
        }
        blanks
    }
}

/// Whether the line that begins at `start`, before the end of the text, holds only blanks.
pub fn is_blank_line(text: &[u8], start: usize) -> bool {
    let rest = text.get(start..).unwrap_or_default();
    let first = rest.iter().find(|b| **b == b'\n' || !b.is_ascii_whitespace());
    !rest.is_empty() && first.is_none_or(|b| *b == b'\n')
}

impl Tables {
    /// Looks at every position of a text.
    fn pass(&self, text: &[u8], pass: &mut Pass) {
        let steps = text.len().div_ceil(LANES);
        pass.clear(steps);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("popcnt")
        {
            vector::pass(self, text, pass);
        }
        while pass.newlines.len() < steps {
            let (step, newlines) = self.step(text, pass.newlines.len() * LANES);
            pass.push(step, newlines);
        }
    }

    /// A step, one position at a time, and its newlines.
    fn step(&self, text: &[u8], base: usize) -> (Step, u32) {
        let rest = text.get(base..).unwrap_or_default();
        let mut step = Step { base, ..Step::default() };
        let mut newlines = 0;
        for lane in 0..LANES.min(rest.len()) {
            let bit = 1u32 << lane;
            let mut groups = u8::MAX;
            for (k, (low, high)) in self.low.iter().zip(&self.high).enumerate() {
                let byte = rest.get(lane + k).copied().unwrap_or(0);
                let of =
                    |table: &[u8; 16], half: u8| table.get(usize::from(half)).copied().unwrap_or(0);
                groups &= of(low, byte & 15) & of(high, byte >> 4);
            }
            if groups != 0 {
                step.begin |= bit;
                if let Some(word) = step.groups.get_mut(lane / 8) {
                    *word |= u64::from(groups) << (8 * (lane % 8));
                }
            }
            if rest.get(lane) == Some(&b'\n') {
                newlines |= bit;
                step.blanks |= if rest.get(lane + 1).is_some_and(|b| *b <= b' ') { bit } else { 0 };
            }
        }
        (step, newlines)
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{LANES, Pass, REACH, Step, Tables};
    use std::arch::x86_64::{
        __m256i, _mm_set_epi64x, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8,
        _mm256_extract_epi64, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_set_epi64x,
        _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
    };

    /// Looks at the steps of which everything can be read.
    pub(super) fn pass(tables: &Tables, text: &[u8], pass: &mut Pass) {
        #[expect(
            unsafe_code,
            reason = "the function is safe but for the instructions it is compiled to, and the \
                      only caller asks for them first"
        )]
        // SAFETY: `Tables::pass` calls this only where AVX2 and POPCNT were detected. The function
        // takes references and slices only and contains no unsafe operation.
        unsafe {
            with_avx2(tables, text, pass);
        }
    }

    #[target_feature(enable = "avx2,popcnt")]
    fn with_avx2(tables: &Tables, text: &[u8], pass: &mut Pass) {
        let [low0, low1, low2, low3] = &tables.low;
        let [high0, high1, high2, high3] = &tables.high;
        let (low0, high0) = (table(low0), table(high0));
        let (low1, high1) = (table(low1), table(high1));
        let (low2, high2) = (table(low2), table(high2));
        let (low3, high3) = (table(low3), table(high3));
        let newline = _mm256_set1_epi8(i8::from_ne_bytes([b'\n']));
        let blank = _mm256_set1_epi8(i8::from_ne_bytes([b' ']));
        let zero = _mm256_setzero_si256();
        let mut rest = text;
        let mut base = 0;
        while let Some(block) = rest.first_chunk::<REACH>() {
            let (first, second) = (load(block, 0), load(block, 1));
            let one = looked_up(low0, high0, first);
            let two = looked_up(low1, high1, second);
            let three = looked_up(low2, high2, load(block, 2));
            let four = looked_up(low3, high3, load(block, 3));
            let groups =
                _mm256_and_si256(_mm256_and_si256(one, two), _mm256_and_si256(three, four));
            let begin = !mask(_mm256_cmpeq_epi8(groups, zero));
            let newlines = mask(_mm256_cmpeq_epi8(first, newline));
            // Behind a newline: a byte that is no larger than a blank.
            let small = mask(_mm256_cmpeq_epi8(_mm256_min_epu8(second, blank), second));
            let mut step = Step { base, begin, groups: [0; LANES / 8], blanks: newlines & small };
            if begin != 0 {
                step.groups = words(groups);
            }
            pass.push(step, newlines);
            base += LANES;
            rest = rest.get(LANES..).unwrap_or_default();
        }
    }

    /// The groups to which bytes may belong, by the tables of their place.
    #[target_feature(enable = "avx2")]
    fn looked_up(low: __m256i, high: __m256i, bytes: __m256i) -> __m256i {
        let half = _mm256_set1_epi8(15);
        let below = _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, half));
        let above = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half);
        _mm256_and_si256(below, _mm256_shuffle_epi8(high, above))
    }

    #[target_feature(enable = "avx2")]
    fn mask(lanes: __m256i) -> u32 {
        u32::from_ne_bytes(_mm256_movemask_epi8(lanes).to_ne_bytes())
    }

    #[target_feature(enable = "avx2")]
    fn words(lanes: __m256i) -> [u64; LANES / 8] {
        let word = |word: i64| u64::from_ne_bytes(word.to_ne_bytes());
        [
            word(_mm256_extract_epi64::<0>(lanes)),
            word(_mm256_extract_epi64::<1>(lanes)),
            word(_mm256_extract_epi64::<2>(lanes)),
            word(_mm256_extract_epi64::<3>(lanes)),
        ]
    }

    #[target_feature(enable = "avx2")]
    fn word(bytes: &[u8], at: usize) -> i64 {
        let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
        i64::from_le_bytes(word.unwrap_or_default())
    }

    #[target_feature(enable = "avx2")]
    fn load(block: &[u8; REACH], at: usize) -> __m256i {
        let word = |n: usize| word(block, at + 8 * n);
        _mm256_set_epi64x(word(3), word(2), word(1), word(0))
    }

    #[target_feature(enable = "avx2")]
    fn table(table: &[u8; 16]) -> __m256i {
        _mm256_broadcastsi128_si256(_mm_set_epi64x(word(table, 8), word(table, 0)))
    }
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_finds_every_needle_and_counts_every_line(text in text()) {
            let sieve = Sieve::new(needles());
            let mut walk = sieve.walk(&text, Pass::default());
            let mut found = Vec::new();
            prop_assert_eq!(walk.next(|one| { found.push(one); false }), None);
            found.sort_by_key(|found| (found.start, found.needle));
            prop_assert_eq!(found, naive(&text));
            for at in 0..=text.len() {
                let newlines = text[..at].iter().filter(|b| **b == b'\n').count();
                prop_assert_eq!(walk.newlines_before(at), newlines as u64);
            }
            let blank = crate::source::lines::split_lines(&text)
                .filter(|line| line.iter().all(u8::is_ascii_whitespace));
            prop_assert_eq!(walk.blank_lines(), blank.count() as u64);
        }

        #[test]
        fn a_jump_leaves_out_what_lies_before_it(text in text()) {
            let sieve = Sieve::new(needles());
            let mut walk = sieve.walk(&text, Pass::default());
            let mut at = 0;
            while let Some(found) = walk.next(|_| true) {
                let first = naive(&text[at..]).first().map(|f| f.start + at);
                let line = |at: usize| text[..at].iter().filter(|b| **b == b'\n').count();
                prop_assert_eq!(Some(line(found.start)), first.map(line));
                at = text[found.end..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| found.end + n + 1);
                walk.jump(at);
            }
            prop_assert!(naive(&text[at..]).is_empty());
        }

        #[test]
        fn vectors_and_single_positions_agree(text in text()) {
            let tables = Sieve::new(needles()).tables;
            // In room that was used before.
            let mut pass = Pass::default();
            tables.pass(b"\n\nlevel", &mut pass);
            tables.pass(&text, &mut pass);
            let mut single = Pass::default();
            for base in (0..text.len()).step_by(LANES) {
                let (step, newlines) = tables.step(&text, base);
                single.push(step, newlines);
            }
            prop_assert_eq!((pass.steps, pass.newlines), (single.steps, single.newlines));
            prop_assert_eq!(pass.count, single.count);
        }
    }
}
