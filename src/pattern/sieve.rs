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
    /// The text, at least two bytes; ASCII letters in lower case if `fold`.
    pub text: Vec<u8>,
    /// ASCII letters may be of any case.
    pub fold: bool,
}

#[derive(Debug, Clone)]
struct Window {
    needle: usize,
    /// Where in the needle it begins.
    offset: usize,
    /// What may stand in each of its places.
    places: [Bytes; WIDTH],
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes([bool; 256]);

/// The needles, ready to be looked for.
#[derive(Debug, Clone)]
pub struct Sieve {
    needles: Vec<Needle>,
    tables: Tables,
    /// By group: needles with the offset of their window.
    groups: [Vec<(usize, usize)>; GROUPS],
}

/// To which groups a byte may belong, by place, for its low and its high half.
#[derive(Debug, Clone, Copy, Default)]
struct Tables {
    low: [[u8; 16]; WIDTH],
    high: [[u8; 16]; WIDTH],
}

/// A step of the pass over a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    /// Positions at which a group may begin.
    begin: u32,
    /// Positions of newlines.
    newlines: u32,
    /// Positions of newlines behind which a blank or control byte stands.
    blanks: u32,
}

impl Bytes {
    fn of(byte: u8, fold: bool) -> Self {
        let mut set = Self([false; 256]);
        set.add(byte);
        if fold {
            set.add(byte.to_ascii_uppercase());
        }
        set
    }

    fn any() -> Self {
        Self([true; 256])
    }

    fn add(&mut self, byte: u8) {
        if let Some(slot) = self.0.get_mut(usize::from(byte)) {
            *slot = true;
        }
    }

    fn join(&self, other: &Self) -> Self {
        let mut set = *self;
        set.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
        set
    }

    /// How often a byte of logs is one that the tables cannot tell from one of this set, in parts
    /// of one.
    fn frequency(&self) -> f64 {
        let (mut low, mut high) = ([false; 16], [false; 16]);
        for byte in self.members() {
            if let Some(slot) = low.get_mut(usize::from(byte & 15)) {
                *slot = true;
            }
            if let Some(slot) = high.get_mut(usize::from(byte >> 4)) {
                *slot = true;
            }
        }
        let taken = |table: &[bool; 16], half: u8| table.get(usize::from(half)).is_some_and(|t| *t);
        (0..=255u8).filter(|b| taken(&low, b & 15) && taken(&high, b >> 4)).map(frequency).sum()
    }

    fn members(&self) -> impl Iterator<Item = u8> {
        (0..=255u8).zip(self.0).filter(|(_, is)| *is).map(|(byte, _)| byte)
    }
}

/// How often a byte stands in logs, roughly. It decides how fast the pass is, never what it finds.
fn frequency(byte: u8) -> f64 {
    let per_mille = match byte {
        b'"' => 120.0,
        b'e' | b'a' | b't' | b'i' | b's' | b'o' | b'n' | b'r' => 38.0,
        b'0' | b'1' | b'2' => 35.0,
        b':' | b',' | b' ' => 33.0,
        b'3'..=b'9' => 16.0,
        b'l' | b'd' | b'm' | b'u' | b'c' | b'p' => 20.0,
        b'-' | b'_' | b'.' | b'/' => 10.0,
        b'a'..=b'z' => 8.0,
        b'E' | b'I' | b'N' | b'O' | b'F' | b'T' => 4.0,
        b'A'..=b'Z' | b'{' | b'}' | b'=' => 2.5,
        b' '..=b'~' => 1.0,
        _ => 0.2,
    };
    per_mille / 1000.0
}

fn cost(places: &[Bytes; WIDTH]) -> f64 {
    places.iter().map(Bytes::frequency).product()
}

impl Window {
    /// The window of a needle that is rarest in logs.
    fn of(needle: usize, text: &Needle) -> Self {
        let last = text.text.len().saturating_sub(WIDTH);
        let at = |offset: usize| {
            let mut places = [Bytes::any(); WIDTH];
            for (place, byte) in places.iter_mut().zip(text.text.get(offset..).unwrap_or_default())
            {
                *place = Bytes::of(*byte, text.fold);
            }
            Window { needle, offset, places }
        };
        let mut best = at(0);
        for window in (1..=last).map(at) {
            if cost(&window.places) < cost(&best.places) {
                best = window;
            }
        }
        best
    }
}

/// Puts windows together until there are no more than [`GROUPS`] groups, always those two that
/// cost least together.
fn grouped(windows: Vec<Window>) -> Vec<(Vec<Window>, [Bytes; WIDTH])> {
    let mut groups: Vec<(Vec<Window>, [Bytes; WIDTH])> = windows
        .into_iter()
        .map(|window| {
            let places = window.places;
            (vec![window], places)
        })
        .collect();
    let join = |a: &[Bytes; WIDTH], b: &[Bytes; WIDTH]| {
        let mut joined = *a;
        joined.iter_mut().zip(b).for_each(|(a, b)| *a = a.join(b));
        joined
    };
    while groups.len() > GROUPS {
        let mut best: Option<(f64, usize, usize)> = None;
        for (i, (_, a)) in groups.iter().enumerate() {
            for (j, (_, b)) in groups.iter().enumerate().skip(i + 1) {
                let more = cost(&join(a, b)) - cost(a) - cost(b);
                if best.is_none_or(|(least, ..)| more < least) {
                    best = Some((more, i, j));
                }
            }
        }
        let Some((_, i, j)) = best else { break };
        let (windows, places) = groups.remove(j);
        if let Some((into, all)) = groups.get_mut(i) {
            into.extend(windows);
            *all = join(all, &places);
        }
    }
    groups
}

impl Sieve {
    /// A sieve for `needles`.
    pub fn new(needles: Vec<Needle>) -> Self {
        let windows = needles.iter().enumerate().map(|(n, text)| Window::of(n, text)).collect();
        let mut tables = Tables::default();
        let mut groups: [Vec<(usize, usize)>; GROUPS] = Default::default();
        for (number, (windows, places)) in grouped(windows).into_iter().enumerate() {
            let bit = 1u8 << number;
            for (k, set) in places.iter().enumerate() {
                for byte in set.members() {
                    if let Some(slot) =
                        tables.low.get_mut(k).and_then(|t| t.get_mut(usize::from(byte & 15)))
                    {
                        *slot |= bit;
                    }
                    if let Some(slot) =
                        tables.high.get_mut(k).and_then(|t| t.get_mut(usize::from(byte >> 4)))
                    {
                        *slot |= bit;
                    }
                }
            }
            if let Some(group) = groups.get_mut(number) {
                group.extend(windows.iter().map(|window| (window.needle, window.offset)));
            }
        }
        Self { needles, tables, groups }
    }

    /// Goes through `text` from its beginning.
    pub fn walk<'s>(&'s self, text: &'s [u8]) -> Walk<'s> {
        Walk { sieve: self, text, at: 0, base: 0, step: Step::default(), newlines: 0, blanks: 0 }
    }

    /// The groups that may begin at `at`.
    fn begins(&self, text: &[u8], at: usize) -> u8 {
        let mut groups = u8::MAX;
        for k in 0..WIDTH {
            let byte = text.get(at + k).copied().unwrap_or(0);
            let half = |tables: &[[u8; 16]; WIDTH], half: u8| {
                tables.get(k).and_then(|t| t.get(usize::from(half))).copied().unwrap_or(0)
            };
            groups &= half(&self.tables.low, byte & 15) & half(&self.tables.high, byte >> 4);
        }
        groups
    }

    /// The needles that really stand where a window begins at `at`, with their places.
    fn confirmed<'s>(&'s self, text: &'s [u8], at: usize) -> impl Iterator<Item = Found> + 's {
        let begin = self.begins(text, at);
        let groups = self.groups.iter().zip(0..).filter(move |(_, n)| begin & (1 << n) != 0);
        groups.flat_map(|(group, _)| group).filter_map(move |(needle, offset)| {
            let wanted = self.needles.get(*needle)?;
            let start = at.checked_sub(*offset)?;
            let end = start + wanted.text.len();
            let there = text.get(start..end)?;
            let same = if wanted.fold {
                there.eq_ignore_ascii_case(&wanted.text)
            } else {
                there == wanted.text
            };
            same.then_some(Found { needle: *needle, start, end })
        })
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

/// A pass over a text.
#[derive(Debug)]
pub struct Walk<'s> {
    sieve: &'s Sieve,
    text: &'s [u8],
    /// Up to here everything was looked at.
    at: usize,
    /// The step that is being looked at: its first position, and what is left of it.
    base: usize,
    step: Step,
    /// Newlines passed.
    pub newlines: u64,
    /// Lines passed that hold only blanks; the line in which a pass or a jump begins is not
    /// looked at for this.
    pub blanks: u64,
}

impl Walk<'_> {
    /// The next needle that `wanted` accepts. Needles may overlap and are found in the order of
    /// their windows. Newlines before the place that was found are counted.
    pub fn next(&mut self, mut wanted: impl FnMut(Found) -> bool) -> Option<Found> {
        loop {
            while self.step.begin != 0 {
                let lane = self.step.begin.trailing_zeros();
                self.step.begin &= self.step.begin - 1;
                let at = self.base + lane as usize;
                let found = self.sieve.confirmed(self.text, at).find(|found| wanted(*found));
                if let Some(found) = found {
                    self.pass(lane);
                    return Some(found);
                }
            }
            self.pass(LANES as u32);
            if self.at >= self.text.len() {
                return None;
            }
            self.base = self.at;
            let (step, advanced) = self.sieve.tables.steps(self.text, self.at);
            (self.step, self.base) = (step, self.base + advanced.skipped);
            self.newlines += advanced.newlines;
            self.at = (self.base + LANES).min(self.text.len());
        }
    }

    /// Counts the lines of this step up to a lane.
    fn pass(&mut self, lane: u32) {
        let passed = 1u32.checked_shl(lane).map_or(u32::MAX, |bit| bit - 1);
        self.newlines += u64::from((self.step.newlines & passed).count_ones());
        let mut blanks = self.step.blanks & passed;
        while blanks != 0 {
            let newline = self.base + blanks.trailing_zeros() as usize;
            blanks &= blanks - 1;
            self.blanks += u64::from(is_blank_line(self.text, newline + 1));
        }
        self.step.newlines &= !passed;
        self.step.blanks &= !passed;
    }

    /// Goes on at `at`, the beginning of a line, without looking at what lies before it.
    pub fn jump(&mut self, at: usize) {
        self.at = at;
        self.step = Step::default();
    }
}

/// Whether the line that begins at `start`, before the end of the text, holds only blanks.
pub fn is_blank_line(text: &[u8], start: usize) -> bool {
    let rest = text.get(start..).unwrap_or_default();
    let first = rest.iter().find(|b| **b == b'\n' || !b.is_ascii_whitespace());
    !rest.is_empty() && first.is_none_or(|b| *b == b'\n')
}

/// What was passed before a step in which something may begin.
#[derive(Debug, Clone, Copy, Default)]
struct Advanced {
    skipped: usize,
    newlines: u64,
}

impl Tables {
    /// The first step from `at` on in which something is to be looked at.
    fn steps(&self, text: &[u8], at: usize) -> (Step, Advanced) {
        let rest = text.get(at..).unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        if rest.len() >= REACH && std::arch::is_x86_feature_detected!("avx2") {
            return vector::steps(self, rest);
        }
        (self.scalar(rest), Advanced::default())
    }

    /// A step, one position at a time; nothing behind the end of the text begins anywhere.
    fn scalar(&self, rest: &[u8]) -> Step {
        let mut step = Step::default();
        for lane in 0..LANES.min(rest.len()) {
            let bit = 1u32 << lane;
            let mut groups = u8::MAX;
            for (k, (low, high)) in self.low.iter().zip(&self.high).enumerate() {
                let byte = rest.get(lane + k).copied().unwrap_or(0);
                let of =
                    |table: &[u8; 16], half: u8| table.get(usize::from(half)).copied().unwrap_or(0);
                groups &= of(low, byte & 15) & of(high, byte >> 4);
            }
            step.begin |= if groups == 0 { 0 } else { bit };
            if rest.get(lane) == Some(&b'\n') {
                step.newlines |= bit;
                step.blanks |= if rest.get(lane + 1).is_some_and(|b| *b <= b' ') { bit } else { 0 };
            }
        }
        step
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{Advanced, LANES, REACH, Step, Tables, WIDTH};
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_set_epi64x, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_set_epi64x,
        _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
    };

    /// The first step in which something is to be looked at, of a text of at least [`REACH`] bytes.
    pub(super) fn steps(tables: &Tables, text: &[u8]) -> (Step, Advanced) {
        #[expect(
            unsafe_code,
            reason = "the function is safe but for the instructions it is compiled to, and the \
                      only caller asks for them first"
        )]
        // SAFETY: `Tables::steps` calls this only where AVX2 was detected. The function takes
        // references and slices only and contains no unsafe operation.
        unsafe {
            with_avx2(tables, text)
        }
    }

    #[target_feature(enable = "avx2")]
    fn with_avx2(tables: &Tables, text: &[u8]) -> (Step, Advanced) {
        let low: [__m256i; WIDTH] = tables.low.map(|table| table16(&table));
        let high: [__m256i; WIDTH] = tables.high.map(|table| table16(&table));
        let half = _mm256_set1_epi8(15);
        let newline = _mm256_set1_epi8(i8::from_ne_bytes([b'\n']));
        let blank = _mm256_set1_epi8(i8::from_ne_bytes([b' ']));
        let zero = _mm256_setzero_si256();
        let mut advanced = Advanced::default();
        let mut rest = text;
        let mut last = Step::default();
        while let Some(block) = rest.first_chunk::<REACH>() {
            let bytes: [__m256i; WIDTH] =
                [load(block, 0), load(block, 1), load(block, 2), load(block, 3)];
            let mut groups = _mm256_set1_epi8(-1);
            for k in 0..WIDTH {
                let below = _mm256_shuffle_epi8(low[k], _mm256_and_si256(bytes[k], half));
                let shifted = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[k]), half);
                let above = _mm256_shuffle_epi8(high[k], shifted);
                groups = _mm256_and_si256(groups, _mm256_and_si256(below, above));
            }
            let begin = !mask(_mm256_cmpeq_epi8(groups, zero));
            let newlines = mask(_mm256_cmpeq_epi8(bytes[0], newline));
            // Behind a newline: a byte that is no larger than a blank.
            let small = mask(_mm256_cmpeq_epi8(_mm256_min_epu8(bytes[1], blank), bytes[1]));
            last = Step { begin, newlines, blanks: newlines & small };
            if (begin | last.blanks) != 0 || rest.len() < REACH + LANES {
                break;
            }
            advanced.newlines += u64::from(newlines.count_ones());
            advanced.skipped += LANES;
            rest = rest.get(LANES..).unwrap_or_default();
        }
        (last, advanced)
    }

    #[target_feature(enable = "avx2")]
    fn mask(lanes: __m256i) -> u32 {
        u32::from_ne_bytes(_mm256_movemask_epi8(lanes).to_ne_bytes())
    }

    #[target_feature(enable = "avx2")]
    fn word(block: &[u8; REACH], at: usize) -> i64 {
        let word = block.get(at..at + 8).and_then(|word| word.try_into().ok());
        i64::from_le_bytes(word.unwrap_or_default())
    }

    #[target_feature(enable = "avx2")]
    fn load(block: &[u8; REACH], at: usize) -> __m256i {
        _mm256_set_epi64x(
            word(block, at + 24),
            word(block, at + 16),
            word(block, at + 8),
            word(block, at),
        )
    }

    #[target_feature(enable = "avx2")]
    fn table16(table: &[u8; 16]) -> __m256i {
        let (first, second) = table.split_at(8);
        let word = |half: &[u8]| i64::from_le_bytes(half.try_into().unwrap_or_default());
        let both: __m128i = _mm_set_epi64x(word(second), word(first));
        _mm256_broadcastsi128_si256(both)
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
            let mut walk = sieve.walk(&text);
            let mut found = Vec::new();
            prop_assert_eq!(walk.next(|one| { found.push(one); false }), None);
            found.sort_by_key(|found| (found.start, found.needle));
            prop_assert_eq!(found, naive(&text));
            let newlines = text.iter().filter(|b| **b == b'\n').count();
            prop_assert_eq!(walk.newlines, newlines as u64);
            let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').skip(1).collect();
            let ended = text.last() == Some(&b'\n');
            let whole = lines.len().saturating_sub(usize::from(ended));
            let blank = lines[..whole].iter().filter(|l| l.iter().all(u8::is_ascii_whitespace)).count();
            prop_assert_eq!(walk.blanks, blank as u64);
        }

        #[test]
        fn a_jump_leaves_out_what_lies_before_it(text in text()) {
            let sieve = Sieve::new(needles());
            let mut walk = sieve.walk(&text);
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
        fn vectors_and_single_positions_agree(text in prop::collection::vec(any::<u8>(), REACH..200)) {
            let tables = Sieve::new(needles()).tables;
            let (step, advanced) = tables.steps(&text, 0);
            prop_assert_eq!(step, tables.scalar(&text[advanced.skipped..]));
            for at in (0..advanced.skipped).step_by(LANES) {
                prop_assert_eq!(tables.scalar(&text[at..]).begin, 0);
            }
        }
    }
}
