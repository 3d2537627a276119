//! Reads the times and durations that logs and configurations contain, and writes them back.
//!
//! Everything here is a pure function of its arguments: there is no wall clock, so the same record
//! has the same time in a live run and in a replay ten years later. A text that is not surely a
//! time gives `None`, because a wrong time moves an event into a wrong window, while a missing one
//! is counted as `untimed` and can be seen.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, Offset, TimeZone};
use chrono_tz::{OffsetName, Tz};

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds; negative before that.
pub type Micros = i64;

/// Microseconds in one second.
const SECOND: Micros = 1_000_000;
/// Microseconds in one minute.
const MINUTE: Micros = 60 * SECOND;
/// Microseconds in one hour.
const HOUR: Micros = 60 * MINUTE;
/// Microseconds in one day of 24 hours.
const DAY: Micros = 24 * HOUR;
/// Days from 0000-12-31 (chrono's day 0) to 1970-01-01.
const EPOCH_DAY: i64 = 719_163;
/// 2000-01-01T00:00:00Z, the earliest time a bare number may mean.
const NUMBER_FROM: Micros = 946_684_800 * SECOND;
/// 2201-01-01T00:00:00Z, the first time a bare number may no longer mean.
const NUMBER_BEFORE: Micros = 7_289_654_400 * SECOND;
/// 0000-01-01T00:00:00Z, the earliest time that RFC 3339 can write.
const FORMAT_MIN: Micros = -62_167_219_200 * SECOND;
/// 9999-12-31T23:59:59.999999Z, the last time that RFC 3339 can write.
const FORMAT_MAX: Micros = 253_402_300_800 * SECOND - 1;

/// English month names as logs shorten them.
const MONTHS: [&[u8; 3]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];
/// English weekday names as logs shorten them.
const WEEKDAYS: [&[u8; 3]; 7] = [b"mon", b"tue", b"wed", b"thu", b"fri", b"sat", b"sun"];
/// Words after a time that shift it by an amount nobody can know for sure (`IST` alone has three
/// meanings). A time followed by one is refused, not read as if the word were not there.
const UNSURE: [&str; 53] = [
    "ACDT", "ACST", "ADT", "AEDT", "AEST", "AKDT", "AKST", "AM", "ART", "AST", "AWST", "BRT",
    "BST", "CAT", "CDT", "CEST", "CET", "CLST", "CLT", "COT", "CST", "EAT", "EDT", "EEST", "EET",
    "EST", "GST", "HDT", "HKT", "HST", "ICT", "IDT", "IST", "JST", "KST", "MDT", "MSK", "MST",
    "NDT", "NST", "NZDT", "NZST", "PDT", "PHT", "PKT", "PM", "PST", "SAST", "SGT", "WAT", "WEST",
    "WET", "WIB",
];

/// The zone in which times without a zone of their own are read. The default is UTC.
///
/// Parsed from `UTC`, `GMT`, `Z`, an offset (`+02:00`, `+0200`, `-5`; less than 24 hours) or an
/// IANA name such as `Europe/Berlin` in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone(Kind);

/// How a [`Zone`] finds its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Utc,
    /// Seconds east of UTC, between -86,399 and 86,399.
    Fixed(i32),
    Named(Tz),
}

/// The text given as a time zone is none; the message names the closest one that is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown time zone {text:?}: {}expected UTC, an offset such as +02:00, or an IANA name",
    nearest.map(|name| format!("did you mean {name:?}? ")).unwrap_or_default()
)]
pub struct ZoneError {
    /// What was given, at most 64 characters of it.
    pub text: String,
    /// The IANA name that looks most like it, if any does.
    pub nearest: Option<&'static str>,
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let text = text.trim();
        if ["UTC", "GMT", "Z"].iter().any(|name| text.eq_ignore_ascii_case(name)) {
            return Ok(Self(Kind::Utc));
        }
        if let Some(seconds) = zone_offset(text.as_bytes()) {
            return Ok(Self(if seconds == 0 { Kind::Utc } else { Kind::Fixed(seconds) }));
        }
        chrono_tz::TZ_VARIANTS
            .iter()
            .find(|tz| tz.name().eq_ignore_ascii_case(text))
            .map(|tz| Self(Kind::Named(*tz)))
            .ok_or_else(|| {
                let text: String = text.chars().take(64).collect();
                ZoneError { nearest: nearest_zone(&text), text }
            })
    }
}

/// Writes a form that [`FromStr`] reads back: `UTC`, `+02:00` or the IANA name.
impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Utc => f.write_str("UTC"),
            Kind::Fixed(seconds) => {
                let sign = if *seconds < 0 { '-' } else { '+' };
                let minutes = seconds.unsigned_abs() / 60;
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
            Kind::Named(tz) => f.write_str(tz.name()),
        }
    }
}

impl Zone {
    /// The instant at which a clock in this zone shows `local` (microseconds as if it were UTC).
    ///
    /// An hour that a change of clocks shows twice is its first showing. An hour that is skipped is
    /// read with the offset from before the change, which shifts it forward by the gap.
    fn to_utc(&self, local: Micros) -> Micros {
        self.shown(local).0
    }

    /// The instant at which a clock in this zone shows `local`, and that at which it shows it again.
    fn shown(&self, local: Micros) -> (Micros, Option<Micros>) {
        let instant = |seconds: i32| local.saturating_sub(i64::from(seconds) * SECOND);
        let tz = match &self.0 {
            Kind::Utc => return (local, None),
            Kind::Fixed(seconds) => return (instant(*seconds), None),
            Kind::Named(tz) => tz,
        };
        let Some(naive) = DateTime::from_timestamp_micros(local).map(|t| t.naive_utc()) else {
            return (local, None);
        };
        match tz.offset_from_local_datetime(&naive) {
            MappedLocalTime::Single(offset) => (instant(east(&offset)), None),
            MappedLocalTime::Ambiguous(a, b) => {
                let (a, b) = (instant(east(&a)), instant(east(&b)));
                (a.min(b), Some(a.max(b)))
            }
            // No zone is more than 16 hours from UTC, so 16 hours back is surely before the
            // change, whatever the offsets on its two sides.
            MappedLocalTime::None => {
                (instant(self.offset_at(local.saturating_sub(16 * HOUR))), None)
            }
        }
    }

    /// What a clock in this zone that shows `local` says.
    fn when(&self, local: Micros) -> When {
        match self.shown(local) {
            (first, Some(again)) => When::Twice { first, again },
            (time, None) => When::At(time),
        }
    }

    /// The instant at which a clock in this zone shows again what it showed at `first`.
    pub fn again(&self, first: Micros) -> Option<Micros> {
        let local = first.saturating_add(i64::from(self.offset_at(first)).saturating_mul(SECOND));
        self.shown(local).1.filter(|again| *again > first)
    }

    /// Like [`Zone::to_utc`], where the record itself said which abbreviation (`CET`) its clock
    /// had. `None` unless this zone has that abbreviation at that time.
    fn to_utc_as(&self, local: Micros, abbreviation: &str) -> Option<Micros> {
        let Kind::Named(tz) = &self.0 else { return None };
        let naive = DateTime::from_timestamp_micros(local)?.naive_utc();
        let offsets = tz.offset_from_local_datetime(&naive);
        [offsets.earliest(), offsets.latest()]
            .into_iter()
            .flatten()
            .find(|offset| offset.abbreviation() == Some(abbreviation))
            .map(|offset| local.saturating_sub(i64::from(east(&offset)) * SECOND))
    }

    /// Seconds east of UTC at the instant `t`; 0 where no calendar reaches.
    fn offset_at(&self, t: Micros) -> i32 {
        match &self.0 {
            Kind::Utc => 0,
            Kind::Fixed(seconds) => *seconds,
            Kind::Named(tz) => DateTime::from_timestamp_micros(t)
                .map_or(0, |t| east(&tz.offset_from_utc_datetime(&t.naive_utc()))),
        }
    }
}

/// Seconds east of UTC.
fn east(offset: &impl Offset) -> i32 {
    offset.fix().local_minus_utc()
}

/// Seconds east of UTC for the whole of `+02:00`, `+0200`, `+02` or `+2`.
fn zone_offset(b: &[u8]) -> Option<i32> {
    let (seconds, end) = match offset(b, 0) {
        Some(found) => found,
        // A person writing a configuration may leave the leading zero out; a log does not.
        None => (sign(b, 0)? * digits(b, 1, 1)? * 3600, 2),
    };
    if end == b.len() { i32::try_from(seconds).ok() } else { None }
}

/// The IANA name closest to `text`, compared as a whole and by its last part (`Berlin`).
fn nearest_zone(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    chrono_tz::TZ_VARIANTS
        .iter()
        .map(|tz| {
            let name = tz.name().to_ascii_lowercase();
            let last = name.rsplit('/').next().unwrap_or(&name);
            let whole = strsim::damerau_levenshtein(&text, &name);
            (whole.min(strsim::damerau_levenshtein(&text, last)), tz.name())
        })
        .min()
        .filter(|(distance, _)| *distance <= 3 && distance * 2 < text.len())
        .map(|(_, name)| name)
}

/// What a text said about when something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// An instant.
    At(Micros),
    /// One of two, by a clock that was put back and showed an hour twice.
    Twice {
        /// When it showed it first.
        first: Micros,
        /// And again.
        again: Micros,
    },
    /// A day of some year.
    Yearless(Yearless),
}

impl When {
    /// The instant, as far as nothing else is known: the first of two. `None` without a year.
    pub fn first(self) -> Option<Micros> {
        match self {
            Self::At(time) | Self::Twice { first: time, .. } => Some(time),
            Self::Yearless(_) => None,
        }
    }

    /// The same, but the second of two.
    pub fn again(self) -> Option<Micros> {
        match self {
            Self::Twice { again, .. } => Some(again),
            other => other.first(),
        }
    }
}

/// A time without a year, as classic syslog writes it: `Feb 12 14:10:21`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yearless {
    /// 1 to 12.
    month: u32,
    /// 1 to 31, a day that this month has in a leap year.
    day: u32,
    /// Microseconds since midnight, below 86,400,000,000.
    micros: Micros,
}

impl Yearless {
    /// The instant in `year` (0 to 9999), in `zone`; `None` if that year has no such day (29
    /// February).
    pub fn in_year(&self, year: i32, zone: &Zone) -> Option<Micros> {
        if !(0..=9999).contains(&year) {
            return None;
        }
        Some(zone.to_utc(days(i64::from(year), self.month, self.day)? * DAY + self.micros))
    }

    /// The instant that lies nearest to `reference` (any value) and not more than a day after it,
    /// of the years before, of and after it, in `zone`.
    ///
    /// 29 February is in the latest leap year when none of the three years is one. A `reference`
    /// outside the years 0 to 9999 is returned as it is.
    pub fn nearest(&self, reference: Micros, zone: &Zone) -> Micros {
        self.near(reference, reference.saturating_add(DAY), zone)
    }

    /// The instant nearest to `reference`, that of the record before it: a log may have been silent for
    /// months.
    pub fn after(&self, reference: Micros, zone: &Zone) -> Micros {
        self.near(reference, Micros::MAX, zone)
    }

    fn near(&self, reference: Micros, latest: Micros, zone: &Zone) -> Micros {
        let local =
            reference.saturating_add(i64::from(zone.offset_at(reference)).saturating_mul(SECOND));
        let Some(year) = DateTime::from_timestamp_micros(local).map(|t| t.year()) else {
            return reference;
        };
        let near = (year.saturating_sub(1)..=year.saturating_add(1))
            .filter_map(|year| self.in_year(year, zone))
            .filter(|t| *t <= latest)
            .min_by_key(|t| t.abs_diff(reference));
        // Two leap years are at most eight years apart (1896, 1904).
        near.or_else(|| {
            (year.saturating_sub(8)..year).rev().find_map(|year| self.in_year(year, zone))
        })
        .unwrap_or(reference)
    }
}

/// The time that the whole of `text` (blanks around it aside) stands for.
///
/// Read are RFC 3339 and its relatives (a blank for the `T`, `,` for the point, no seconds, 1 to 12
/// digits of fraction cut to six, a blank before the zone, offsets `+02:00`, `+0200`, `+02`, the
/// basic form `20250803T223000Z`), `2015/10/29 20:01:02`, `24/Aug/2021:09:52:13 +0000`,
/// `Feb 12 14:10:21` with or without a year after the day, `Wed Oct 11 14:32:52.123 2000`, Go's
/// `-0400 EDT m=+0.1`, all of them in square brackets too, and the numbers of [`parse_number`]. A
/// time without a zone is in `zone`. The second 60 of a leap second is the last microsecond of
/// second 59.
///
/// The only zone names are UTC, GMT and Z, and those which a configured `zone` itself has at that
/// time (`CET` for Europe/Berlin in winter); with any other, the text is `None`. Times before 1970
/// are `None`: `0001-01-01T00:00:00Z` is how Go and .NET write that there is no time.
pub fn parse(text: &str, zone: &Zone) -> Option<When> {
    if let Some(time) = plain_utc(text.as_bytes()) {
        return Some(When::At(time));
    }
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).as_bytes();
    match read(inner, zone, true) {
        Some((when, end)) if end == inner.len() => Some(when),
        _ => parse_number(text).map(When::At),
    }
}

/// A time in any form of [`parse`] that has a year, or a day (`2025-08-03`), which stands for its
/// first moment in `zone`: for what people type. In a log line a day alone is no time.
pub fn parse_moment(text: &str, zone: &Zone) -> Option<Micros> {
    let text = text.trim();
    let is_day = text.len() == 10
        && text.bytes().enumerate().all(|(at, c)| match at {
            4 | 7 => c == b'-',
            _ => c.is_ascii_digit(),
        });
    let when = if is_day { parse(&format!("{text}T00:00:00"), zone) } else { parse(text, zone) };
    when?.first()
}

/// The time, if it is written as nearly all are: `2025-08-03T22:30:00.123456Z`, with a blank for
/// the `T`, `+00:00` for the `Z`, up to six digits of fraction or none.
fn plain_utc(b: &[u8]) -> Option<Micros> {
    let (date, rest) = b.split_first_chunk::<11>()?;
    let (clock, rest) = rest.split_first_chunk::<8>()?;
    let two = |a: u8, b: u8| {
        let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
        (a < 10 && b < 10).then(|| i64::from(a) * 10 + i64::from(b))
    };
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b' '] = *date else { return None };
    let [h1, h2, b':', n1, n2, b':', s1, s2] = *clock else { return None };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (u32::try_from(two(m1, m2)?).ok()?, u32::try_from(two(d1, d2)?).ok()?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix(b".") {
        Some(rest) => {
            let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
            let (digits, zone) = rest.split_at(digits);
            if digits.is_empty() || digits.len() > 6 {
                return None;
            }
            let value = digits.iter().fold(0, |value, c| value * 10 + i64::from(c - b'0'));
            let missing = u32::try_from(6 - digits.len()).ok()?;
            (value * 10_i64.pow(missing), zone)
        }
        None => (0, rest),
    };
    if !matches!(zone, b"Z" | b"+00:00") {
        return None;
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    let time = days(year, month, day)? * DAY + seconds * SECOND + fraction;
    (time >= 0).then_some(time)
}

/// A time at the very start of `text`, in any text form of [`parse`], and how many bytes it takes.
///
/// A bracket around it is taken too; `[time: more]` takes the opening bracket and the time. The
/// length is always at a character boundary. After the time there must be the end, a blank, one of
/// `,;|[]`, a colon before a blank, or a dash before something other than a digit, so that a longer
/// token which merely begins like a time is left alone.
pub fn parse_prefix(text: &str, zone: &Zone) -> Option<(When, usize)> {
    let b = text.as_bytes();
    let open = usize::from(b.first() == Some(&b'['));
    let (when, length) = read(b.get(open..)?, zone, false)?;
    let end = open + length;
    if open == 1 && b.get(end) == Some(&b']') {
        return Some((when, end + 1));
    }
    boundary(b, end).then_some((when, end))
}

/// The time that a decimal number (`1754260200`, `1546413239.1466308`, `1.725547337613E9`) stands
/// for.
///
/// Below 1e11 it counts seconds since 1970, below 1e14 milliseconds, below 1e17 microseconds, else
/// nanoseconds. Digits beyond the microsecond are cut off. It is worked out on the decimal digits,
/// so nothing is lost to floating point. `None` for all that is not in the years 2000 to 2200.
pub fn parse_number(text: &str) -> Option<Micros> {
    let b = text.trim().as_bytes();
    let (mantissa, exponent) = match b.iter().position(|c| c.eq_ignore_ascii_case(&b'e')) {
        Some(at) => (b.get(..at)?, exponent(b.get(at + 1..)?)?),
        None => (b, 0),
    };
    // The first significant digits, and how many digits stand before the decimal point.
    let mut kept = [0_u8; 20];
    let (mut found, mut point, mut before) = (0_usize, false, 0_i64);
    for c in mantissa {
        match c {
            b'.' if !point => point = true,
            b'0' if found == 0 => before -= i64::from(point),
            b'0'..=b'9' => {
                if let Some(slot) = kept.get_mut(found) {
                    *slot = c - b'0';
                }
                found += 1;
                before += i64::from(!point);
            }
            _ => return None,
        }
    }
    if found == 0 {
        return None;
    }
    // The number of integer digits is the magnitude. Moving the point to the microsecond is keeping
    // more or fewer digits: six more for seconds, three fewer for nanoseconds.
    let places = match before.saturating_add(exponent) {
        n @ 1..=11 => n + 6,
        n @ 12..=14 => n + 3,
        n @ 15..=17 => n,
        n @ 18..=19 => n - 3,
        _ => return None,
    };
    let places = usize::try_from(places).ok()?;
    let t = kept.iter().take(places).fold(0_i64, |t, digit| t * 10 + i64::from(*digit));
    (NUMBER_FROM..NUMBER_BEFORE).contains(&t).then_some(t)
}

/// The exponent after the `e` of a number, held within a range where sums cannot overflow.
fn exponent(b: &[u8]) -> Option<i64> {
    let (sign, b) = match b.split_first()? {
        (b'-', rest) => (-1, rest),
        (b'+', rest) => (1, rest),
        _ => (1, b),
    };
    if b.is_empty() {
        return None;
    }
    let value = b.iter().try_fold(0_i64, |value, c| {
        c.is_ascii_digit().then(|| (value * 10 + i64::from(c - b'0')).min(1 << 40))
    })?;
    Some(sign * value)
}

/// `2025-08-03T23:26:40.000000Z`: RFC 3339 in UTC, always with six digits of fraction.
///
/// Times outside the years 0 to 9999, which RFC 3339 cannot write, become the nearest that it can.
pub fn format(t: Micros) -> String {
    let t = t.clamp(FORMAT_MIN, FORMAT_MAX);
    let (day, micros) = (t.div_euclid(DAY), t.rem_euclid(DAY));
    let date = DateTime::from_timestamp(day * 86_400, 0).unwrap_or_default().date_naive();
    // Two digits of a number below a hundred.
    let two = |value: u32| {
        let [value, ..] = value.to_le_bytes();
        [b'0' + value / 10 % 10, b'0' + value % 10]
    };
    let narrow = |value: i64| u32::try_from(value).unwrap_or(0);
    let (year, seconds) = (narrow(i64::from(date.year())), narrow(micros / SECOND));
    let micros = narrow(micros % SECOND);
    let ([y, e], [a, r]) = (two(year / 100), two(year % 100));
    let ([m, o], [d, b]) = (two(date.month()), two(date.day()));
    let ([h, i], [n, j], [s, k]) = (two(seconds / 3600), two(seconds / 60 % 60), two(seconds % 60));
    let ([f, g], [l, p], [q, t]) =
        (two(micros / 10_000), two(micros / 100 % 100), two(micros % 100));
    let text = [
        y, e, a, r, b'-', m, o, b'-', d, b, b'T', h, i, b':', n, j, b':', s, k, b'.', f, g, l, p,
        q, t, b'Z',
    ];
    str::from_utf8(&text).unwrap_or_default().to_owned()
}

/// Units of durations, largest first.
const UNITS: [(&str, Micros); 7] = [
    ("w", 7 * DAY),
    ("d", DAY),
    ("h", HOUR),
    ("m", MINUTE),
    ("s", SECOND),
    ("ms", 1_000),
    ("us", 1),
];

/// The length that `text` (blanks around it aside) stands for: `30s`, `5m`, `2h`, `90d`, `1w`,
/// `250ms`, `10us`, or several from the larger to the smaller unit, each once: `1h30m`.
///
/// Whole numbers only, no sign. A bare number has no unit and is `None`, as is what does not fit in
/// an `i64` of microseconds (292,000 years).
pub fn parse_duration(text: &str) -> Option<Micros> {
    let mut rest = text.trim();
    let mut total: Micros = 0;
    let mut above = Micros::MAX;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(run(rest, |c| c.is_ascii_digit()));
        let (unit, tail) = tail.split_at(run(tail, |c| c.is_ascii_alphabetic()));
        let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        // Falling sizes refuse `30m1h` and `1m1m`, which are slips of the pen.
        if size >= above {
            return None;
        }
        above = size;
        // An empty or a too long number is an error of `parse`.
        total = total.checked_add(number.parse::<Micros>().ok()?.checked_mul(size)?)?;
        rest = tail;
    }
    Some(total)
}

/// Length of the run of bytes at the start of `text` that are `wanted`, all of them ASCII.
fn run(text: &str, wanted: impl Fn(&u8) -> bool) -> usize {
    text.bytes().position(|c| !wanted(&c)).unwrap_or(text.len())
}

/// A duration in microseconds as one number with the largest unit that says it exactly.
///
/// Days are written from two on, because a window of a day reads better as `24h`; weeks never. 0 is
/// `0s`; a negative value (no rule has one) gets a minus.
pub fn format_duration(m: Micros) -> String {
    let size = m.unsigned_abs();
    let sign = if m < 0 { "-" } else { "" };
    if size == 0 {
        return "0s".to_owned();
    }
    UNITS
        .into_iter()
        .map(|(name, unit)| (name, unit.unsigned_abs()))
        .find(|(name, unit)| {
            size.is_multiple_of(*unit) && *name != "w" && (*name != "d" || size > *unit)
        })
        .map_or_else(
            || format!("{sign}{size}us"),
            |(name, unit)| [sign, itoa::Buffer::new().format(size / unit), name].concat(),
        )
}

/// A length of time as people read it, down to seconds: `3m12s`, `1d2h`, `0s`.
pub fn spoken_duration(m: Micros) -> String {
    let mut rest = m.max(0) / SECOND;
    let mut text = String::new();
    for (name, unit) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

// What follows reads bytes, because every form is ASCII and this runs for every matched record. All
// functions take the position to read at and give the position after what they read; each byte they
// pass has been recognised as ASCII, so no position ever lies inside a character.

/// A time at the start of `b` and its length. `whole` says that nothing may follow it.
fn read(b: &[u8], zone: &Zone, whole: bool) -> Option<(When, usize)> {
    if b.first()?.is_ascii_alphabetic() {
        return read_month_first(b, zone, whole);
    }
    let (day, at, colons) = if let Some(separator @ (b'-' | b'/')) = b.get(4) {
        // 2025-08-03T.., 2025-08-03 .., 2015/10/29 ..
        let day = days(digits(b, 0, 4)?, number(b, 5, 2)?, number(b, 8, 2)?)?;
        let fits = match b.get(10)? {
            b' ' => true,
            b'T' | b't' => *separator == b'-',
            _ => false,
        };
        if !fits || b.get(7) != Some(separator) {
            return None;
        }
        (day, 11, true)
    } else if let Some(b'T' | b't') = b.get(8) {
        // 20250803T223000
        (days(digits(b, 0, 4)?, number(b, 4, 2)?, number(b, 6, 2)?)?, 9, false)
    } else {
        // 24/Aug/2021:..
        let (day, at) = day_of_month(b, 0)?;
        let month = name(b, at + 1, &MONTHS)?;
        let slashes = b.get(at) == Some(&b'/') && b.get(at + 4) == Some(&b'/');
        if !slashes || b.get(at + 9) != Some(&b':') {
            return None;
        }
        (days(digits(b, at + 5, 4)?, month, day)?, at + 10, true)
    };
    let (micros, at) = clock(b, at, colons)?;
    let (when, at) = read_zone(b, at, day * DAY + micros, zone, whole)?;
    at_or_after_epoch(when, at)
}

/// `Feb 12 14:10:21`, `Feb  2 ..`, `Feb 12 2025 ..`, and the same after a weekday, where the year
/// may also come last (Apache's error log, C's `ctime`).
fn read_month_first(b: &[u8], zone: &Zone, whole: bool) -> Option<(When, usize)> {
    let weekday = name(b, 0, &WEEKDAYS).is_some() && b.get(3) == Some(&b' ');
    let at = if weekday { 4 } else { 0 };
    let month = name(b, at, &MONTHS)?;
    if b.get(at + 3) != Some(&b' ') {
        return None;
    }
    let padded = b.get(at + 4) == Some(&b' ');
    let (day, at) = day_of_month(b, at + 4 + usize::from(padded))?;
    if b.get(at) != Some(&b' ') {
        return None;
    }
    if let Some(year) = digits(b, at + 1, 4) {
        if b.get(at + 5) != Some(&b' ') {
            return None;
        }
        let (micros, at) = clock(b, at + 6, true)?;
        let local = days(year, month, day)? * DAY + micros;
        let (when, at) = read_zone(b, at, local, zone, whole)?;
        return at_or_after_epoch(when, at);
    }
    let (micros, at) = clock(b, at + 1, true)?;
    // Only after a weekday, because the word after a syslog time is a host and may be a number.
    if weekday
        && b.get(at) == Some(&b' ')
        && let Some(year) = digits(b, at + 1, 4)
        && boundary(b, at + 5)
    {
        let when = zone.when(days(year, month, day)? * DAY + micros);
        return at_or_after_epoch(when, at + 5);
    }
    // A leap year stands in for the unknown one, so that 29 February is a day.
    days(2000, month, day)?;
    Some((When::Yearless(Yearless { month, day, micros }), at))
}

/// Refuses times before 1970.
fn at_or_after_epoch(when: When, end: usize) -> Option<(When, usize)> {
    (when.first()? >= 0).then_some((when, end))
}

/// `hh:mm[:ss[.fraction]]`, or without its colons, as microseconds since midnight.
fn clock(b: &[u8], at: usize, colons: bool) -> Option<(Micros, usize)> {
    let gap = usize::from(colons);
    let hour = digits(b, at, 2)?;
    let minute = digits(b, at + 2 + gap, 2)?;
    if (colons && b.get(at + 2) != Some(&b':')) || hour > 23 || minute > 59 {
        return None;
    }
    let minutes = hour * HOUR + minute * MINUTE;
    let end = at + 4 + gap;
    let has_seconds = !colons || b.get(end) == Some(&b':');
    let Some(second) = digits(b, end + gap, 2).filter(|_| has_seconds) else {
        return Some((minutes, end));
    };
    let (micros, end) = fraction(b, end + gap + 2)?;
    match second {
        0..=59 => Some((minutes + second * SECOND + micros, end)),
        60 => Some((minutes + MINUTE - 1, end)),
        _ => None,
    }
}

/// `.123` or `,123` as microseconds, 0 if there is none; `None` for more than 12 digits.
fn fraction(b: &[u8], at: usize) -> Option<(Micros, usize)> {
    let digits = b.get(at + 1..).unwrap_or_default();
    let count = digits.iter().take(13).take_while(|c| c.is_ascii_digit()).count();
    if !matches!(b.get(at), Some(b'.' | b',')) || count == 0 {
        // A comma without a digit after it belongs to the text that follows.
        return Some((0, at));
    }
    if count > 12 {
        return None;
    }
    let digit = |i| if i < count { digits.get(i).map_or(0, |c| i64::from(c - b'0')) } else { 0 };
    Some(((0..6).fold(0, |value, i| value * 10 + digit(i)), at + 1 + count))
}

/// Reads the zone, if there is one, and gives the instant of the clock reading `local`.
///
/// `None` where a zone is named that is not known, so that its time is never read as if it were in
/// the configured zone.
fn read_zone(
    b: &[u8],
    at: usize,
    local: Micros,
    zone: &Zone,
    whole: bool,
) -> Option<(When, usize)> {
    let blank = b.get(at) == Some(&b' ');
    let start = at + usize::from(blank);
    let zoneless = || Some((zone.when(local), at));
    if let Some((seconds, end)) = offset(b, start) {
        // After a blank it may be an ordinary word that only looks like an offset (`-12345`).
        if blank && !boundary(b, end) {
            return zoneless();
        }
        let end = if blank { go_suffix(b, end, whole) } else { end };
        return Some((When::At(local - seconds * SECOND), end));
    }
    let word = word(b, start);
    let end = start + word.len();
    if ["UTC", "GMT", "Z"].iter().any(|name| word.eq_ignore_ascii_case(name)) {
        return match b.get(end) {
            _ if boundary(b, end) => Some((When::At(local), end)),
            // `GMT+0200` and `UTC-5`: their sign is read both ways.
            Some(b'+' | b'-') => None,
            _ => zoneless(),
        };
    }
    if !word.is_empty() && boundary(b, end) {
        if let Some(t) = zone.to_utc_as(local, word) {
            return Some((When::At(t), end));
        }
        if is_unsure(word) {
            return None;
        }
    }
    zoneless()
}

/// What Go's `Time.String` writes after the offset: the zone's name (or the offset again) and the
/// reading of the monotonic clock. Neither adds anything. Gives the position after them.
fn go_suffix(b: &[u8], at: usize, whole: bool) -> usize {
    let mut named = at;
    let mut sure = false;
    if b.get(at) == Some(&b' ') {
        let word = word(b, at + 1);
        if !word.is_empty() && word.bytes().all(|c| c.is_ascii_uppercase()) {
            named = at + 1 + word.len();
            sure = is_unsure(word) || word == "UTC" || word == "GMT";
        } else if let Some((_, end)) = offset(b, at + 1) {
            named = end;
        }
    }
    if let Some(b" m=+" | b" m=-") = b.get(named..named + 4) {
        let rest = b.get(named + 4..).unwrap_or_default();
        // A process that is up for a thousand years needs 21 characters.
        let length = rest.iter().take(32).take_while(|c| c.is_ascii_digit() || **c == b'.').count();
        return named + 4 + length;
    }
    // A word that is no known zone is part of the message, unless nothing else is there.
    if sure || (whole && named == b.len()) { named } else { at }
}

/// `+hh:mm`, `+hhmm` or `+hh`, the longest that is there, as seconds east of UTC (less than a day).
fn offset(b: &[u8], at: usize) -> Option<(i64, usize)> {
    let sign = sign(b, at)?;
    let hours = digits(b, at + 1, 2).filter(|hours| *hours <= 23)?;
    let colon = usize::from(b.get(at + 3) == Some(&b':'));
    match digits(b, at + 3 + colon, 2) {
        Some(minutes @ 0..=59) => Some((sign * (hours * 3600 + minutes * 60), at + 5 + colon)),
        Some(_) => None,
        None => Some((sign * hours * 3600, at + 3)),
    }
}

/// 1 for a plus, -1 for a minus.
fn sign(b: &[u8], at: usize) -> Option<i64> {
    match b.get(at)? {
        b'+' => Some(1),
        b'-' => Some(-1),
        _ => None,
    }
}

/// The letters at `at`; empty if there are more than six, which no zone's abbreviation has.
fn word(b: &[u8], at: usize) -> &str {
    let rest = b.get(at..).unwrap_or_default();
    let length = rest.iter().take(7).take_while(|c| c.is_ascii_alphabetic()).count();
    let letters = if length > 6 { None } else { rest.get(..length) };
    letters.and_then(|letters| str::from_utf8(letters).ok()).unwrap_or_default()
}

/// Whether `word` shifts a time by an amount that is not known.
fn is_unsure(word: &str) -> bool {
    let half_day = word.eq_ignore_ascii_case("am") || word.eq_ignore_ascii_case("pm");
    half_day || UNSURE.binary_search(&word).is_ok()
}

/// Whether a time may end at `at`.
fn boundary(b: &[u8], at: usize) -> bool {
    let next = b.get(at + 1);
    match b.get(at) {
        None | Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b';' | b'|' | b'[' | b']') => true,
        Some(b':') => next.is_none_or(u8::is_ascii_whitespace),
        Some(b'-') => !next.is_some_and(u8::is_ascii_digit),
        _ => false,
    }
}

/// A day of one or two digits.
fn day_of_month(b: &[u8], at: usize) -> Option<(u32, usize)> {
    match number(b, at, 2) {
        Some(day) => Some((day, at + 2)),
        None => Some((number(b, at, 1)?, at + 1)),
    }
}

/// Which of `names` (lower-case) stands at `at` in any case, counted from 1.
fn name(b: &[u8], at: usize, names: &[&[u8; 3]]) -> Option<u32> {
    let word = b.get(at..at + 3)?;
    let index = names.iter().position(|name| word.eq_ignore_ascii_case(*name))?;
    u32::try_from(index + 1).ok()
}

/// Exactly `count` (at most 4) decimal digits.
fn digits(b: &[u8], at: usize, count: usize) -> Option<i64> {
    b.get(at..at + count)?
        .iter()
        .try_fold(0_i64, |value, c| c.is_ascii_digit().then(|| value * 10 + i64::from(c - b'0')))
}

/// [`digits`] in the type that dates are made of.
fn number(b: &[u8], at: usize, count: usize) -> Option<u32> {
    u32::try_from(digits(b, at, count)?).ok()
}

/// Days from 1970-01-01 to a date of the years 0 to 9999; `None` if the calendar has no such date.
fn days(year: i64, month: u32, day: u32) -> Option<i64> {
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some(i64::from(date.num_days_from_ce()) - EPOCH_DAY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utc() -> Zone {
        Zone::default()
    }

    fn zone(text: &str) -> Zone {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_is_its_first_moment_where_people_type_it_and_nothing_in_a_log() {
        for (text, name, shown) in [
            ("2025-08-03", "UTC", "2025-08-03T00:00:00.000000Z"),
            (" 2025-08-03 ", "+02:00", "2025-08-02T22:00:00.000000Z"),
            ("2025-08-03", "Europe/Berlin", "2025-08-02T22:00:00.000000Z"),
            // Its clocks went from 0 to 1 o'clock that night.
            ("2025-09-07", "America/Santiago", "2025-09-07T04:00:00.000000Z"),
            ("2025-08-03T10:00", "Europe/Berlin", "2025-08-03T08:00:00.000000Z"),
        ] {
            let moment = parse_moment(text, &zone(name));
            assert_eq!(moment.map(format).as_deref(), Some(shown), "{text} in {name}");
        }
        for text in ["2025-08", "2025-02-30", "03-08-2025", "Feb 12 14:10:21", "today", ""] {
            assert_eq!(parse_moment(text, &utc()), None, "{text}");
        }
        assert_eq!(parse("2025-08-03", &utc()), None);
    }

    /// The time of `text` in `zone`, written out; `-` if it is none.
    fn read_in(text: &str, zone: &Zone) -> String {
        match parse(text, zone) {
            Some(When::At(t)) => format(t),
            Some(When::Twice { first, again }) => format!("{} or {}", format(first), format(again)),
            Some(When::Yearless(y)) => format!("{}-{} {}", y.month, y.day, y.micros),
            None => "-".to_owned(),
        }
    }

    fn read_utc(text: &str) -> String {
        read_in(text, &utc())
    }

    #[test]
    fn every_text_form_is_read() {
        let same = [
            "2025-08-03T22:30:00Z",
            "2025-08-03t22:30:00z",
            "2025-08-03 22:30:00Z",
            "2025-08-03T22:30Z",
            "2025-08-03T22:30",
            "2025-08-03 22:30",
            "2025-08-03T22:30:00",
            "2025-08-03T22:30:00.000000000000Z",
            "2025-08-03T22:30:00+00:00",
            "2025-08-03T22:30:00-00:00",
            "2025-08-04T00:30:00+02:00",
            "2025-08-04T00:30:00+0200",
            "2025-08-04T00:30:00+02",
            "2025-08-04 00:30:00 +02",
            "2025-08-04 00:30:00 +0200",
            "2025-08-04 00:30:00 +02:00",
            "2025-08-03T17:00:00-05:30",
            "2025-08-03 22:30:00 UTC",
            "2025-08-03 22:30:00 GMT",
            "2025-08-03 22:30:00 utc",
            "2025-08-03 22:30:00 Z",
            "2025-08-03T22:30:00UTC",
            "2025-08-03 22:30:00,000",
            "  2025-08-03T22:30:00Z\r\n",
            "[2025-08-03T22:30:00Z]",
            "20250803T223000Z",
            "20250803T2230Z",
            "20250804T003000+0200",
            "20250803T223000",
            "2025/08/03 22:30:00",
            "03/Aug/2025:22:30:00 +0000",
            "3/Aug/2025:22:30:00 +0000",
            "[04/Aug/2025:00:30:00 +0200]",
            "03/aug/2025:22:30:00",
            "03/Aug/2025:22:30:00.000",
            "Aug 3 2025 22:30:00",
            "Aug  3 2025 22:30:00 UTC",
            "Sun Aug  3 22:30:00 2025",
            "[Sun Aug 03 22:30:00.000000 2025]",
            "2025-08-03 18:30:00 -0400 EDT",
            "2025-08-03 18:30:00 -0400 EDT m=+0.1",
            "2025-08-03 18:30:00 -0400 -04 m=+12.000000001",
            "2025-08-03 22:30:00 +0000 UTC m=-0.1",
            "1754260200",
            "1754260200000",
            "1754260200000000",
            "1754260200000000000",
        ];
        for text in same {
            assert_eq!(read_utc(text), "2025-08-03T22:30:00.000000Z", "{text}");
        }
    }

    #[test]
    fn fractions_are_cut_to_microseconds() {
        for (text, digits) in [
            ("2025-08-03T22:30:00.1Z", "100000"),
            ("2025-08-03 22:30:00,123", "123000"),
            ("2025-08-03T22:30:00.123456Z", "123456"),
            ("2025-08-03T22:30:00.1234569Z", "123456"),
            ("2025-08-03T22:30:00.999999999999+00:00", "999999"),
        ] {
            assert_eq!(read_utc(text), format!("2025-08-03T22:30:00.{digits}Z"), "{text}");
        }
        assert_eq!(
            read_utc("2014-03-10 19:57:38.562264131 -0400 EDT m=+0.1"),
            "2014-03-10T23:57:38.562264Z"
        );
        assert_eq!(read_utc("2026-11-23 15:10:11.366 UTC"), "2026-11-23T15:10:11.366000Z");
        assert_eq!(read_utc("Wed Oct 11 14:32:52.123456 2000"), "2000-10-11T14:32:52.123456Z");
        assert_eq!(read_utc("24/Aug/2021:09:52:13 +0000"), "2021-08-24T09:52:13.000000Z");
        assert_eq!(read_utc("2015/10/29 20:01:02"), "2015-10-29T20:01:02.000000Z");
    }

    #[test]
    fn a_leap_second_is_the_end_of_its_minute() {
        assert_eq!(read_utc("2016-12-31T23:59:60Z"), "2016-12-31T23:59:59.999999Z");
        assert_eq!(read_utc("2016-12-31T23:59:60.5Z"), "2016-12-31T23:59:59.999999Z");
        assert_eq!(read_utc("2016-12-31T23:59:61Z"), "-");
    }

    #[test]
    fn what_is_not_surely_a_time_is_none() {
        for text in [
            "",
            " ",
            "[]",
            "-",
            "2025-08-03",
            "22:30:00",
            "2025-08-03T22",
            "2025-08-03T22:30:00ZZ",
            "2025-08-03T22:30:00Z x",
            "2025-08-03T22:30:00.Z",
            "2025-08-03T22:30:00.1234567890123Z",
            "2025-08/03 22:30:00",
            "2025/08/03T22:30:00",
            "2025-13-03T22:30:00Z",
            "2025-02-29T22:30:00Z",
            "2025-08-32T22:30:00Z",
            "2025-08-00T22:30:00Z",
            "2025-08-03T24:00:00Z",
            "2025-08-03T22:60:00Z",
            "2025-08-03T22:30:00+24:00",
            "2025-08-03T22:30:00+02:60",
            "2025-08-03T22:30:00+2",
            "+025-08-03T22:30:00Z",
            "2025-08-03 22:30:00 CET",
            "2026-11-23 15:10:11.366 EST",
            "2025-08-03 10:30:00 PM",
            "2025-08-03 22:30:00 GMT+0200",
            "08/02/2023, 7:32:47 PM",
            "24/Xug/2021:09:52:13 +0000",
            "Feb 30 14:10:21",
            "Feb 12",
            "Smarch 12 14:10:21",
            "0001-01-01T00:00:00Z",
            "0001-01-01 00:00:00 +0000 UTC",
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00+00:01",
            "2025\u{2010}08-03T22:30:00Z",
            "٢٠٢٥-08-03T22:30:00Z",
        ] {
            assert_eq!(read_utc(text), "-", "{text:?}");
        }
    }

    #[test]
    fn numbers_go_by_their_magnitude() {
        for (text, expected) in [
            ("1754260200", "2025-08-03T22:30:00.000000Z"),
            (" 1754260200 ", "2025-08-03T22:30:00.000000Z"),
            ("1754260200.5", "2025-08-03T22:30:00.500000Z"),
            ("1754260200123", "2025-08-03T22:30:00.123000Z"),
            ("1754260200123.4567", "2025-08-03T22:30:00.123456Z"),
            ("1754260200123456", "2025-08-03T22:30:00.123456Z"),
            ("1754260200123456789", "2025-08-03T22:30:00.123456Z"),
            ("1546413239.1466308", "2019-01-02T07:13:59.146630Z"),
            ("1.725547337613E9", "2024-09-05T14:42:17.613000Z"),
            ("1.725547337613e+9", "2024-09-05T14:42:17.613000Z"),
            ("17255473376130000000000e-13", "2024-09-05T14:42:17.613000Z"),
            ("0.0000001754260200e16", "2025-08-03T22:30:00.000000Z"),
            ("0001754260200", "2025-08-03T22:30:00.000000Z"),
            ("946684800", "2000-01-01T00:00:00.000000Z"),
            ("7289654399", "2200-12-31T23:59:59.000000Z"),
            ("7289654399999999999", "2200-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(parse_number(text).map(format).as_deref(), Some(expected), "{text}");
            assert_eq!(read_utc(text), expected, "{text}");
        }
        for text in [
            "",
            "0",
            "0.0",
            "-1",
            "-1754260200",
            "946684799",
            "946684799.999999",
            "7289654400",
            "99999999999",
            "100000000000",
            "20250803",
            "NaN",
            "Infinity",
            "1e400",
            "1e-400",
            "1e",
            "e9",
            ".",
            "1.2.3",
            "1_754_260_200",
            "0x68900000",
            "+1754260200",
            "17542602000000000000",
            "1754260200e99999999999999999999999999",
        ] {
            assert_eq!(parse_number(text), None, "{text}");
        }
        assert_eq!(parse_number(&"9".repeat(1_000_000)), None);
        assert_eq!(parse_number(&format!("0.{}1", "0".repeat(1_000_000))), None);
        let far = format!("0.{}17542602e{}", "0".repeat(100_000), 100_010);
        assert_eq!(parse_number(&far), Some(1_754_260_200 * SECOND));
    }

    #[test]
    fn a_zoneless_time_is_in_the_configured_zone() {
        let berlin = zone("Europe/Berlin");
        for (text, expected) in [
            ("2025-08-03 22:30:00,123", "2025-08-03T20:30:00.123000Z"),
            ("2025-12-03 22:30:00", "2025-12-03T21:30:00.000000Z"),
            ("2025-12-03 22:30:00Z", "2025-12-03T22:30:00.000000Z"),
            ("2025/12/03 22:30:00", "2025-12-03T21:30:00.000000Z"),
            ("1754260200", "2025-08-03T22:30:00.000000Z"),
            // 02:30 was twice that night; the first time it was still summer.
            ("2025-10-26 02:30:00", "2025-10-26T00:30:00.000000Z or 2025-10-26T01:30:00.000000Z"),
            ("2025-10-26 02:30:00+02:00", "2025-10-26T00:30:00.000000Z"),
            // 02:30 never was; an hour later it was 03:30 in summer time.
            ("2025-03-30 02:30:00", "2025-03-30T01:30:00.000000Z"),
            // The zone's own names settle it.
            ("2025-10-26 02:30:00 CEST", "2025-10-26T00:30:00.000000Z"),
            ("2025-10-26 02:30:00 CET", "2025-10-26T01:30:00.000000Z"),
            ("2026-11-23 15:10:11.366 CET", "2026-11-23T14:10:11.366000Z"),
            ("2026-11-23 15:10:11.366 CEST", "-"),
            ("2026-11-23 15:10:11.366 EST", "-"),
        ] {
            assert_eq!(read_in(text, &berlin), expected, "{text}");
        }
        let first = 1_761_438_600 * SECOND;
        assert_eq!(berlin.again(first), Some(first + HOUR));
        assert_eq!(berlin.again(first + HOUR), None, "it is the second");
        assert_eq!((berlin.again(first - HOUR), utc().again(first)), (None, None));
        // Samoa left 30 December 2011 out.
        assert_eq!(
            read_in("2011-12-30 12:00:00", &zone("Pacific/Apia")),
            "2011-12-30T22:00:00.000000Z"
        );
        assert_eq!(read_in("2025-08-03 22:30:00", &zone("+02:00")), "2025-08-03T20:30:00.000000Z");
    }

    #[test]
    fn zones_are_read_and_written() {
        for (text, written) in [
            ("UTC", "UTC"),
            ("utc", "UTC"),
            ("Z", "UTC"),
            ("+00:00", "UTC"),
            ("+02:00", "+02:00"),
            ("+0200", "+02:00"),
            ("+2", "+02:00"),
            ("-5", "-05:00"),
            ("-05", "-05:00"),
            ("-03:30", "-03:30"),
            ("Europe/Berlin", "Europe/Berlin"),
            (" america/new_york ", "America/New_York"),
        ] {
            assert_eq!(zone(text).to_string(), written);
            assert_eq!(zone(written), zone(text));
        }
        for text in ["", "+", "+24", "+2:00", "+02:0", "5", "UTC+2", "Mars/Olympus"] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
        assert_eq!(
            "Europe/Berln".parse::<Zone>().unwrap_err().to_string(),
            "unknown time zone \"Europe/Berln\": did you mean \"Europe/Berlin\"? \
             expected UTC, an offset such as +02:00, or an IANA name"
        );
        assert_eq!("Berlin".parse::<Zone>().unwrap_err().nearest, Some("Europe/Berlin"));
        assert_eq!("x".repeat(1_000_000).parse::<Zone>().unwrap_err().text.len(), 64);
    }

    fn yearless(text: &str) -> Yearless {
        match parse(text, &utc()) {
            Some(When::Yearless(yearless)) => yearless,
            other => unreachable!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_time_without_a_year_takes_the_nearest_one() {
        assert_eq!(read_utc("Feb 12 14:10:21"), "2-12 51021000000");
        assert_eq!(read_utc("Feb  2 14:10:21.5"), "2-2 51021500000");
        assert_eq!(yearless("Feb  2 14:10:21"), yearless("feb 02 14:10:21"));
        assert_eq!(yearless("Feb  2 14:10:21"), yearless("Sun Feb  2 14:10:21"));
        let reference = |text: &str| match parse(text, &utc()) {
            Some(When::At(t)) => t,
            other => unreachable!("{other:?}"),
        };
        for (text, at, expected) in [
            ("Feb 12 14:10:21", "2026-03-01T00:00:00Z", "2026-02-12T14:10:21.000000Z"),
            ("Dec 31 23:59:59", "2026-01-01T00:00:10Z", "2025-12-31T23:59:59.000000Z"),
            ("Jan  1 00:00:01", "2025-12-31T23:59:50Z", "2026-01-01T00:00:01.000000Z"),
            // Up to a day ahead may be a clock that is wrong, more is the year before.
            ("Jun 11 12:00:00", "2026-06-10T12:00:00Z", "2026-06-11T12:00:00.000000Z"),
            ("Jun 11 12:00:01", "2026-06-10T12:00:00Z", "2025-06-11T12:00:01.000000Z"),
            ("Feb 29 12:00:00", "2024-03-01T00:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2025-03-01T00:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2026-03-01T00:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2027-03-01T00:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2103-03-01T00:00:00Z", "2096-02-29T12:00:00.000000Z"),
        ] {
            assert_eq!(
                format(yearless(text).nearest(reference(at), &utc())),
                expected,
                "{text} {at}"
            );
        }
        // Midnight in Tokyo is still the day before in UTC.
        assert_eq!(
            format(
                yearless("Jan  1 00:30:00")
                    .nearest(reference("2025-12-31T15:31:00Z"), &zone("Asia/Tokyo"))
            ),
            "2025-12-31T15:30:00.000000Z"
        );
        let leap_day = yearless("Feb 29 12:00:00");
        assert_eq!(leap_day.in_year(2025, &utc()), None);
        assert_eq!(
            leap_day.in_year(2024, &utc()).map(format).unwrap(),
            "2024-02-29T12:00:00.000000Z"
        );
        assert_eq!(leap_day.in_year(i32::MAX, &utc()), None);
        assert_eq!(leap_day.in_year(i32::MIN, &utc()), None);
    }

    #[test]
    fn a_time_at_the_start_of_a_line_is_taken_off() {
        for (line, rest) in [
            ("2025-08-03T22:30:00Z", ""),
            ("2025-08-03T22:30:00Z FAILED_LOGIN", " FAILED_LOGIN"),
            ("2025-08-03 22:30:00,000 - security - INFO", " - security - INFO"),
            ("2025-08-03 22:30:00 - security", " - security"),
            ("2025-08-03 22:30:00-security", "-security"),
            ("2025-08-03 22:30:00, x", ", x"),
            ("2025-08-03 22:30:00|INFO|x", "|INFO|x"),
            ("2025-08-03 22:30:00: x", ": x"),
            ("2025-08-03 22:30:00 INFO x", " INFO x"),
            ("2025-08-03 22:30:00 UTC [123] LOG:  x", " [123] LOG:  x"),
            ("2025-08-03 19:30:00 -03 [123] LOG:  x", " [123] LOG:  x"),
            ("2025-08-04 00:30:00 +0200 x", " x"),
            ("2025-08-04 00:30:00 +0200 INFO x", " INFO x"),
            ("2025-08-03 18:30:00 -0400 EDT m=+0.1 x", " x"),
            ("2025-08-03 18:30:00 -0400 EDT x", " x"),
            ("2025-08-03 22:30:00 -12345 x", " -12345 x"),
            ("2025-08-03 22:30:00 -5 x", " -5 x"),
            ("2025-08-03 22:30 x", " x"),
            ("2025-08-03T22:30:00Z\tx", "\tx"),
            ("2025-08-03T22:30:00Z[x]", "[x]"),
            ("[2025-08-03 22:30:00 +0000] [7] x", " [7] x"),
            ("[2025-08-03 22:30:00,000: INFO/Main] x", ": INFO/Main] x"),
            ("[03/Aug/2025:22:30:00 +0000] x", " x"),
            ("03/Aug/2025:22:30:00 +0000 x", " x"),
            ("[03/Aug/2025:22:30:00.000] x", " x"),
            ("2025/08/03 22:30:00 [error] x", " [error] x"),
            ("[Sun Aug 03 22:30:00.000000 2025] [core] x", " [core] x"),
            ("Aug  3 2025 22:30:00: %ASA-6 x", ": %ASA-6 x"),
            ("20250803T223000Z x", " x"),
            ("2025-08-03 22:30:00 é", " é"),
        ] {
            let (when, length) = parse_prefix(line, &utc()).unwrap();
            assert_eq!(when, When::At(1_754_260_200 * SECOND), "{line}");
            assert_eq!(&line[length..], rest, "{line}");
        }
        let (when, length) = parse_prefix("Feb 12 14:10:21 2025 sshd[1]: x", &utc()).unwrap();
        assert_eq!((when, length), (When::Yearless(yearless("Feb 12 14:10:21")), 15));
        for line in [
            "",
            "[",
            "x 2025-08-03T22:30:00Z",
            " 2025-08-03T22:30:00Z",
            "1754260200 x",
            "2025-08-03T22:30:00Zebra",
            "2025-08-03T22:30:00é",
            "2025-08-03T22:30:00.5.5 x",
            "2025-08-03T22:30:00-5 x",
            "2025-08-03T22:30:000 x",
            "2025-08-03T22:30:00+01000 x",
            "2025-08-03 22:30:00=x",
            "2025-08-03 22:30:00:x",
            "2025-08-03 22:30:00 CET [123] LOG:  x",
            "2025-08-03 10:30:00 PM x",
            "2025-08-03 22:30:00 GMT+0200 x",
            "May 12 was warm",
        ] {
            assert_eq!(parse_prefix(line, &utc()), None, "{line}");
        }
    }

    #[test]
    fn every_time_can_be_written() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(format(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(format(i64::MIN), "0000-01-01T00:00:00.000000Z");
        assert_eq!(format(i64::MAX), "9999-12-31T23:59:59.999999Z");
        assert_eq!(format(NUMBER_FROM), "2000-01-01T00:00:00.000000Z");
        assert_eq!(format(NUMBER_BEFORE), "2201-01-01T00:00:00.000000Z");
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, value, written) in [
            ("0s", 0, "0s"),
            ("0d", 0, "0s"),
            ("10us", 10, "10us"),
            ("250ms", 250_000, "250ms"),
            ("1500ms", 1_500_000, "1500ms"),
            ("30s", 30 * SECOND, "30s"),
            ("90s", 90 * SECOND, "90s"),
            ("60s", MINUTE, "1m"),
            ("600s", 10 * MINUTE, "10m"),
            (" 5m ", 5 * MINUTE, "5m"),
            ("3600s", HOUR, "1h"),
            ("1h30m", 90 * MINUTE, "90m"),
            ("1d", DAY, "24h"),
            ("36h", 36 * HOUR, "36h"),
            ("2d", 2 * DAY, "2d"),
            ("172800s", 2 * DAY, "2d"),
            ("90d", 90 * DAY, "90d"),
            ("1w", 7 * DAY, "7d"),
            ("1w2d3h4m5s6ms7us", 788_645_006_007, "788645006007us"),
        ] {
            assert_eq!(parse_duration(text), Some(value), "{text}");
            assert_eq!(format_duration(value), written, "{text}");
        }
        for text in [
            "",
            " ",
            "0",
            "5",
            "s",
            "-5s",
            "+5s",
            "1.5h",
            "5 m",
            "5M",
            "5min",
            "30m1h",
            "1m1m",
            "1h30",
            "5é",
            "é",
            "99999999999999999999s",
            "9223372036854775807s",
            "15250284w9223372036854775807us",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration(&"9".repeat(1_000_000)), None);
        assert_eq!(format_duration(-90 * SECOND), "-90s");
        assert_eq!(format_duration(i64::MIN), "-9223372036854775808us");
    }

    #[test]
    fn the_unsure_words_are_sorted() {
        assert!(UNSURE.is_sorted());
    }

    /// Texts that come close to times, which wholly random ones never do.
    fn near_times() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec![
                "2025", "-08", "-03", "T", " ", "22", ":30", ":00", ".123", ",", "Z", "UTC", "+02",
                ":", "00", "-", "[", "]", "/", "Aug", "Feb 29", "Sun ", "m=+", "1", "é",
                "\u{2028}", "CET", "9999", "1e9", "60", "\0",
            ]),
            0..14,
        )
        .prop_map(|parts| parts.concat())
    }

    #[test]
    fn a_time_without_a_year_goes_on_after_any_gap() {
        let zone = utc();
        for (before, text, expected) in [
            ("2025-11-28T09:02:00Z", "Nov 30 09:10:00", "2025-11-30T09:10:00.000000Z"),
            ("2025-12-30T09:00:00Z", "Jan  2 09:10:00", "2026-01-02T09:10:00.000000Z"),
            ("2025-03-01T09:00:00Z", "Aug  1 09:10:00", "2025-08-01T09:10:00.000000Z"),
            ("2026-01-01T00:00:05Z", "Dec 31 23:59:59", "2025-12-31T23:59:59.000000Z"),
        ] {
            let before = parse_moment(before, &zone).unwrap();
            assert_eq!(format(yearless(text).after(before, &zone)), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_gives_what_the_long_one_gives(
            text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{0,8})?(Z|\\+00:00|\\+01:00|)",
        ) {
            if let Some(time) = plain_utc(text.as_bytes()) {
                let long = read(text.as_bytes(), &Zone::default(), true);
                prop_assert_eq!(long, Some((When::At(time), text.len())), "{}", text);
            }
        }

        #[test]
        fn no_text_panics(text in prop_oneof![any::<String>(), near_times()]) {
            for zone in [utc(), zone("Europe/Berlin"), zone("-23:59")] {
                let _ = parse(&text, &zone);
                if let Some((when, length)) = parse_prefix(&text, &zone) {
                    prop_assert!(text.is_char_boundary(length));
                    let again = parse_prefix(&text[..length], &zone).map(|(when, _)| when);
                    prop_assert_eq!(again, Some(when));
                }
            }
            let _ = parse_number(&text);
            let _ = parse_duration(&text);
            let _ = text.parse::<Zone>();
        }

        #[test]
        fn a_written_time_reads_back(t in 0..=FORMAT_MAX, name in "UTC|-5|Asia/Kolkata") {
            let text = format(t);
            prop_assert_eq!(text.len(), 27);
            prop_assert_eq!(parse(&text, &zone(&name)), Some(When::At(t)));
            prop_assert_eq!(parse_prefix(&text, &zone(&name)), Some((When::At(t), 27)));
        }

        #[test]
        fn any_time_is_written(t in any::<i64>()) {
            prop_assert_eq!(format(t).len(), 27);
        }

        #[test]
        fn numbers_agree_with_integers(t in NUMBER_FROM..NUMBER_BEFORE, nanos in 0..1000_i64) {
            prop_assert_eq!(parse_number(&t.to_string()), Some(t));
            prop_assert_eq!(parse_number(&format!("{t}{nanos:03}")), Some(t));
            let text = format!("{}.{:06}{nanos:03}", t / SECOND, t % SECOND);
            prop_assert_eq!(parse_number(&text), Some(t));
        }

        #[test]
        fn a_written_duration_reads_back(m in 0..=i64::MAX, hours in 0..=10_000_i64) {
            prop_assert_eq!(parse_duration(&format_duration(hours * HOUR)), Some(hours * HOUR));
            prop_assert_eq!(parse_duration(&format_duration(m)), Some(m));
        }

        #[test]
        fn a_zone_maps_every_clock_reading(
            local in any::<i64>(),
            name in "UTC|Europe/Berlin|Pacific/Apia|America/St_Johns|\\+23:59",
        ) {
            let zone = zone(&name);
            prop_assert!(zone.to_utc(local).abs_diff(local) < DAY.unsigned_abs());
        }

        #[test]
        fn the_nearest_year_is_never_more_than_a_day_ahead(
            reference in any::<i64>(),
            recent in 0..253_402_300_000_000_000_i64,
            day in 1..=28_u32,
            month in 1..=12_u32,
            micros in 0..DAY,
        ) {
            let y = Yearless { month, day, micros };
            let _ = y.nearest(reference, &utc());
            let t = y.nearest(recent, &utc());
            prop_assert!(t <= recent + DAY);
            prop_assert!(t > recent - 366 * DAY);
        }
    }
}
