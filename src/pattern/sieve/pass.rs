//! Looks at every position of a text: which groups of windows may begin there, and how many lines
//! have begun before.
//!
//! Three ways do the same: one position after the other; thirty-two with AVX2, which looks up the
//! two halves of a byte and so lets a few more pass; sixty-four with AVX-512 VBMI, which looks up
//! seven bits at once. The processor decides which.

use super::{WIDTH, is_blank_line};

/// Most positions of a step.
pub(super) const LANES: usize = 64;
/// Those of a step with AVX2.
const HALF: usize = LANES / 2;
/// Steps that are passed at a time, 16 KiB of text or 8: the nearest cache still holds what is looked
/// at again.
const AHEAD: usize = 256;

/// To which groups a byte may belong, by place in a window.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    /// By byte.
    bytes: Places<256>,
    /// By the lower seven bits: what is no ASCII is taken for what is.
    ascii: Places<128>,
    /// By half a byte; the groups of a byte are among those that both halves name.
    low: Places<16>,
    high: Places<16>,
}

type Places<const N: usize> = [[u8; N]; WIDTH];

/// What the tables say of up to [`LANES`] neighbouring positions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Step {
    /// The first of them.
    pub base: usize,
    /// Newlines before it.
    pub before: u32,
    /// Positions at which a group may begin.
    pub begin: u64,
    /// Positions of newlines.
    pub newlines: u64,
    /// Which groups, eight positions a word.
    pub groups: [u64; LANES / 8],
}

/// How far a pass is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The first position that was not looked at.
    pub base: usize,
    /// Newlines before it.
    pub newlines: u32,
    /// Lines behind those newlines that hold only blanks.
    pub blanks: u64,
    /// Steps in which there is something to look at.
    pub filled: usize,
}

/// Room for what a pass finds. That of one can be used by the next.
#[derive(Debug, Default)]
pub struct Room(Vec<Step>);

impl Room {
    /// Makes it large enough for `text`.
    pub(super) fn fit(&mut self, text: &[u8]) {
        let steps = text.len().div_ceil(LANES).min(AHEAD);
        if self.0.len() < steps {
            self.0.resize(steps, Step::default());
        }
    }

    /// A step in which there is something to look at.
    pub(super) fn step(&self, number: usize) -> Option<&Step> {
        self.0.get(number)
    }
}

impl Step {
    /// Newlines before a position of it.
    pub(super) fn newlines_before(&self, lane: usize) -> u64 {
        let before = self.newlines & ((1 << lane) - 1);
        u64::from(self.before) + u64::from(before.count_ones())
    }

    /// The groups that may begin at a position of it.
    pub(super) fn groups(&self, lane: usize) -> u8 {
        let word = self.groups.get(lane / 8).copied().unwrap_or(0);
        word.to_le_bytes()[lane % 8]
    }
}

impl Progress {
    /// Puts a step behind the others. `blanks` are those of its newlines behind which a blank or
    /// control byte stands.
    #[inline(always)]
    fn push<const LANES: usize>(
        &mut self,
        text: &[u8],
        room: &mut [Step],
        step: Step,
        blanks: u64,
    ) {
        // Whether there is something to look at cannot be foretold, so that the step is written in
        // any case, and by the next one again if there is nothing.
        if let Some(place) = room.get_mut(self.filled) {
            *place = Step { base: self.base, before: self.newlines, ..step };
        }
        self.filled += usize::from(step.begin != 0);
        if blanks != 0 {
            self.blanks += blank_lines(text, self.base, blanks);
        }
        self.newlines += step.newlines.count_ones();
        self.base += LANES;
    }
}

/// How many of the lines behind these newlines hold only blanks.
#[cold]
fn blank_lines(text: &[u8], base: usize, mut newlines: u64) -> u64 {
    let mut blanks = 0;
    while newlines != 0 {
        let newline = base + newlines.trailing_zeros() as usize;
        newlines &= newlines - 1;
        blanks += u64::from(is_blank_line(text, newline + 1));
    }
    blanks
}

/// A way to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Single,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Way {
    /// All that this processor can go, the fastest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let all = [Self::Avx512, Self::Avx2, Self::Single];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [Self::Single];
        all.into_iter().filter(|way| way.is_open())
    }

    /// Positions of a step.
    fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => HALF,
            _ => LANES,
        }
    }

    #[inline]
    fn is_open(self) -> bool {
        match self {
            Self::Single => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                // The compiler takes the first three for granted with AVX-512.
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vbmi")
                    && std::arch::is_x86_feature_detected!("popcnt")
            }
        }
    }
}

impl Tables {
    pub(super) fn new(bytes: Places<256>) -> Self {
        let (mut ascii, mut low, mut high) =
            ([[0; 128]; WIDTH], [[0; 16]; WIDTH], [[0; 16]; WIDTH]);
        for (place, of) in bytes.iter().enumerate() {
            for (byte, groups) in of.iter().enumerate() {
                let add = |to: Option<&mut u8>| to.map(|to| *to |= groups);
                add(ascii.get_mut(place).and_then(|ascii| ascii.get_mut(byte & 127)));
                add(low.get_mut(place).and_then(|low| low.get_mut(byte & 15)));
                add(high.get_mut(place).and_then(|high| high.get_mut(byte >> 4)));
            }
        }
        Self { bytes, ascii, low, high }
    }

    /// Goes on by as many steps as there is room for, or to the end of the text.
    pub(super) fn pass(&self, text: &[u8], way: Way, room: &mut Room, from: Progress) -> Progress {
        let room = room.0.as_mut_slice();
        let until = from.base + room.len() * way.lanes();
        let near = text.get(..until + WIDTH - 1).unwrap_or(text);
        let mut progress = Progress { filled: 0, ..from };
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 | Way::Avx512 => {
                progress = vector::pass(self, way, text, near, room, progress);
            }
            Way::Single => {}
        }
        while progress.base < until.min(text.len()) {
            let (step, blanks) = self.step(text, progress.base);
            progress.push::<LANES>(text, room, step, blanks);
        }
        progress
    }

    /// A step, one position at a time, and those of its newlines behind which a blank stands.
    fn step(&self, text: &[u8], base: usize) -> (Step, u64) {
        let rest = text.get(base..).unwrap_or_default();
        let mut step = Step::default();
        let mut blanks = 0;
        for lane in 0..LANES.min(rest.len()) {
            let bit = 1u64 << lane;
            let byte = |k: usize| usize::from(rest.get(lane + k).copied().unwrap_or(0));
            let of = |(k, table): (usize, &[u8; 256])| table.get(byte(k)).copied().unwrap_or(0);
            let groups = self.bytes.iter().enumerate().map(of).fold(u8::MAX, |all, of| all & of);
            if groups != 0 {
                step.begin |= bit;
                if let Some(word) = step.groups.get_mut(lane / 8) {
                    *word |= u64::from(groups) << (8 * (lane % 8));
                }
            }
            if rest.get(lane) == Some(&b'\n') {
                step.newlines |= bit;
                blanks |= if rest.get(lane + 1).is_some_and(|b| *b <= b' ') { bit } else { 0 };
            }
        }
        (step, blanks)
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{HALF, LANES, Progress, Step, Tables, WIDTH, Way};
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_set_epi64x, _mm256_and_si256, _mm256_broadcastsi128_si256,
        _mm256_cmpeq_epi8, _mm256_extract_epi64, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_set_epi64x, _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_srli_epi16, _mm512_and_si512, _mm512_cmpeq_epi8_mask, _mm512_extracti64x4_epi64,
        _mm512_mask_cmple_epu8_mask, _mm512_permutex2var_epi8, _mm512_set_epi64, _mm512_set1_epi8,
        _mm512_test_epi8_mask,
    };

    /// Looks at the steps of `near` of which everything can be read. `near` is how far to go in
    /// `text`.
    pub(super) fn pass(
        tables: &Tables,
        way: Way,
        text: &[u8],
        near: &[u8],
        room: &mut [Step],
        progress: Progress,
    ) -> Progress {
        if !way.is_open() {
            return progress;
        }
        #[expect(
            unsafe_code,
            reason = "the functions are safe but for the instructions they are compiled to, and \
                      the processor was asked for them"
        )]
        // SAFETY: `Way::is_open` has just found each feature that the function is compiled for.
        // The functions take references and slices only and contain no unsafe operation.
        unsafe {
            match way {
                Way::Single => progress,
                Way::Avx2 => with_avx2(tables, text, near, room, progress),
                Way::Avx512 => with_avx512(tables, text, near, room, progress),
            }
        }
    }

    const NEWLINE: i8 = i8::from_ne_bytes([b'\n']);
    const BLANK: i8 = i8::from_ne_bytes([b' ']);

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt")]
    fn with_avx512(
        tables: &Tables,
        text: &[u8],
        near: &[u8],
        room: &mut [Step],
        mut progress: Progress,
    ) -> Progress {
        let [zero, one, two, three] = &tables.ascii;
        let (low0, high0) = (load512(zero, 0), load512(zero, LANES));
        let (low1, high1) = (load512(one, 0), load512(one, LANES));
        let (low2, high2) = (load512(two, 0), load512(two, LANES));
        let (low3, high3) = (load512(three, 0), load512(three, LANES));
        let newline = _mm512_set1_epi8(NEWLINE);
        let blank = _mm512_set1_epi8(BLANK);
        while let Some(block) = near.get(progress.base..).and_then(|rest| rest.first_chunk()) {
            let block: &[u8; LANES + WIDTH - 1] = block;
            let (first, second) = (load512(block, 0), load512(block, 1));
            let one = _mm512_permutex2var_epi8(low0, first, high0);
            let two = _mm512_permutex2var_epi8(low1, second, high1);
            let three = _mm512_permutex2var_epi8(low2, load512(block, 2), high2);
            let four = _mm512_permutex2var_epi8(low3, load512(block, 3), high3);
            let groups =
                _mm512_and_si512(_mm512_and_si512(one, two), _mm512_and_si512(three, four));
            let newlines = _mm512_cmpeq_epi8_mask(first, newline);
            let step = Step {
                begin: _mm512_test_epi8_mask(groups, groups),
                newlines,
                groups: words512(groups),
                ..Step::default()
            };
            let blanks = _mm512_mask_cmple_epu8_mask(newlines, second, blank);
            progress.push::<LANES>(text, room, step, blanks);
        }
        progress
    }

    #[target_feature(enable = "avx512f")]
    fn load512(bytes: &[u8], at: usize) -> __m512i {
        let w = |n: usize| word(bytes, at + 8 * n);
        _mm512_set_epi64(w(7), w(6), w(5), w(4), w(3), w(2), w(1), w(0))
    }

    #[target_feature(enable = "avx512f")]
    fn words512(lanes: __m512i) -> [u64; LANES / 8] {
        let [a, b, c, d] = words(_mm512_extracti64x4_epi64::<0>(lanes));
        let [e, f, g, h] = words(_mm512_extracti64x4_epi64::<1>(lanes));
        [a, b, c, d, e, f, g, h]
    }

    #[target_feature(enable = "avx2,popcnt")]
    fn with_avx2(
        tables: &Tables,
        text: &[u8],
        near: &[u8],
        room: &mut [Step],
        mut progress: Progress,
    ) -> Progress {
        let [low0, low1, low2, low3] = &tables.low;
        let [high0, high1, high2, high3] = &tables.high;
        let (low0, high0) = (table(low0), table(high0));
        let (low1, high1) = (table(low1), table(high1));
        let (low2, high2) = (table(low2), table(high2));
        let (low3, high3) = (table(low3), table(high3));
        let newline = _mm256_set1_epi8(NEWLINE);
        let blank = _mm256_set1_epi8(BLANK);
        let zero = _mm256_setzero_si256();
        while let Some(block) = near.get(progress.base..).and_then(|rest| rest.first_chunk()) {
            let block: &[u8; HALF + WIDTH - 1] = block;
            let (first, second) = (load(block, 0), load(block, 1));
            let one = looked_up(low0, high0, first);
            let two = looked_up(low1, high1, second);
            let three = looked_up(low2, high2, load(block, 2));
            let four = looked_up(low3, high3, load(block, 3));
            let groups =
                _mm256_and_si256(_mm256_and_si256(one, two), _mm256_and_si256(three, four));
            let none = mask(_mm256_cmpeq_epi8(groups, zero));
            let newlines = mask(_mm256_cmpeq_epi8(first, newline));
            // Behind a newline: a byte that is no larger than a blank.
            let small = mask(_mm256_cmpeq_epi8(_mm256_min_epu8(second, blank), second));
            let [a, b, c, d] = words(groups);
            let step = Step {
                begin: u64::from(!none),
                newlines: u64::from(newlines),
                groups: [a, b, c, d, 0, 0, 0, 0],
                ..Step::default()
            };
            progress.push::<HALF>(text, room, step, u64::from(newlines & small));
        }
        progress
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
    fn words(lanes: __m256i) -> [u64; HALF / 8] {
        let word = |word: i64| u64::from_ne_bytes(word.to_ne_bytes());
        [
            word(_mm256_extract_epi64::<0>(lanes)),
            word(_mm256_extract_epi64::<1>(lanes)),
            word(_mm256_extract_epi64::<2>(lanes)),
            word(_mm256_extract_epi64::<3>(lanes)),
        ]
    }

    #[inline]
    fn word(bytes: &[u8], at: usize) -> i64 {
        let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
        i64::from_le_bytes(word.unwrap_or_default())
    }

    #[target_feature(enable = "avx2")]
    fn load(block: &[u8; HALF + WIDTH - 1], at: usize) -> __m256i {
        let word = |n: usize| word(block, at + 8 * n);
        _mm256_set_epi64x(word(3), word(2), word(1), word(0))
    }

    #[target_feature(enable = "avx2")]
    fn table(table: &[u8; 16]) -> __m256i {
        _mm256_broadcastsi128_si256(_mm_set_epi64x(word(table, 8), word(table, 0)))
    }
}
