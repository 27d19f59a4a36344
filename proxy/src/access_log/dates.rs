//! Civil dates in UTC, and the part of strftime that log formats use. Asks no clock.

use selvedge_runtime::WallTime;

use super::format::{FormatError, split_percents};
use crate::http::h1::encode::decimal;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    /// A conversion of strftime.
    Field(u8),
    /// So many digits of the fraction of the second.
    Fraction(u32),
    /// Seconds with so many digits of their fraction.
    Seconds(u32),
    /// Seconds since 1970.
    Epoch,
    /// `+00:00`
    Offset,
}

/// What stands between the parentheses of `START_TIME` and `EMIT_TIME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimeFormat(Box<[Part]>);

impl TimeFormat {
    /// Conversions of strftime, fractions (`%f`, `%3f`, `%E3S`) and seconds since 1970 (`%s`).
    pub(crate) fn compile(operator: &str, text: &str) -> Result<TimeFormat, FormatError> {
        let parts = split_percents(text, Part::Literal, |rest| {
            let (part, length) = conversion(rest).ok_or_else(|| {
                let end = rest.char_indices().nth(1).map_or(rest.len(), |(i, _)| i);
                FormatError(format!("{operator}: conversion %{} is not implemented", &rest[..end]))
            })?;
            Ok((part, &rest[length..]))
        })?;
        Ok(TimeFormat(parts))
    }

    pub(crate) fn write(&self, at: WallTime, out: &mut Vec<u8>) {
        let civil = Civil::of(at.seconds());
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Field(field) => civil.field(*field, out),
                Part::Fraction(digits) => fraction(at, *digits, out),
                Part::Seconds(digits) => {
                    padded(civil.second, 2, out);
                    out.push(b'.');
                    fraction(at, *digits, out);
                }
                Part::Epoch => padded(at.seconds(), 1, out),
                Part::Offset => out.extend_from_slice(b"+00:00"),
            }
        }
    }
}

const FIELDS: &[u8] = b"AaBbCcDdeFGgHhIjklMmnPpRrSTtUuVWwXxYyZz";

/// The conversion after a `%`, and its length.
//= envoy: DateFormatter, absl::FormatTime; observed on 1.40.0
fn conversion(text: &str) -> Option<(Part, usize)> {
    let bytes = text.as_bytes();
    match *bytes.first()? {
        b'f' => Some((Part::Fraction(9), 1)),
        b's' => Some((Part::Epoch, 1)),
        digit @ b'1'..=b'9' => match bytes.get(1)? {
            b'f' => Some((Part::Fraction(u32::from(digit - b'0')), 2)),
            b's' => Some((Part::Epoch, 2)),
            _ => None,
        },
        b'E' => match (bytes.get(1)?, bytes.get(2)) {
            (digit @ b'1'..=b'9', Some(b'S')) => Some((Part::Seconds(u32::from(digit - b'0')), 3)),
            (digit @ b'1'..=b'9', Some(b'f')) => Some((Part::Fraction(u32::from(digit - b'0')), 3)),
            (b'4', Some(b'Y')) => Some((Part::Field(b'Y'), 3)),
            (b'z', _) => Some((Part::Offset, 2)),
            _ => None,
        },
        b':' => bytes.get(1).filter(|b| **b == b'z').map(|_| (Part::Offset, 2)),
        field => FIELDS.contains(&field).then_some((Part::Field(field), 1)),
    }
}

fn fraction(at: WallTime, digits: u32, out: &mut Vec<u8>) {
    padded(at.0 % 1_000_000_000 / 10u64.pow(9 - digits), digits as usize, out);
}

/// A date of the civil calendar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Civil {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) weekday: u64,
    /// 0 is 1 January.
    pub(crate) yearday: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl Civil {
    pub(crate) fn of(seconds: u64) -> Civil {
        let (days, second) = (seconds / 86400, seconds % 86400);
        // Counted from 1 March of year 0, where leap days fall at the end of a year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Civil {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: of_year - (153 * month_from_march + 2) / 5 + 1,
            weekday: (days + 4) % 7,
            // Of a year that begins on 1 January, where a leap day has passed by the end of February.
            yearday: days - Civil::days_before(year_of_era + era * 400 + u64::from(month <= 2)),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Days from 1970 to 1 January of `year`.
    fn days_before(year: u64) -> u64 {
        let past = year - 1;
        past * 365 + past / 4 - past / 100 + past / 400 - 719_162
    }

    /// Year and week of ISO 8601.
    fn iso_week(self) -> (u64, u64) {
        let weekday = (self.weekday + 6) % 7;
        let week = (self.yearday + 10 - weekday) / 7;
        let weeks_of = |year: u64| {
            let first = (Civil::days_before(year) + 4) % 7;
            let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
            if first == 4 || (first == 3 && leap) { 53 } else { 52 }
        };
        match week {
            0 => (self.year - 1, weeks_of(self.year - 1)),
            53 if weeks_of(self.year) == 52 => (self.year + 1, 1),
            week => (self.year, week),
        }
    }

    fn field(self, field: u8, out: &mut Vec<u8>) {
        let hour12 = (self.hour + 11) % 12 + 1;
        match field {
            b'Y' => padded(self.year, 4, out),
            b'C' => padded(self.year / 100, 2, out),
            b'y' => padded(self.year % 100, 2, out),
            b'G' => padded(self.iso_week().0, 4, out),
            b'g' => padded(self.iso_week().0 % 100, 2, out),
            b'V' => padded(self.iso_week().1, 2, out),
            b'U' => padded((self.yearday + 7 - self.weekday) / 7, 2, out),
            b'W' => padded((self.yearday + 7 - (self.weekday + 6) % 7) / 7, 2, out),
            b'm' => padded(self.month, 2, out),
            b'd' => padded(self.day, 2, out),
            b'e' => spaced(self.day, out),
            b'j' => padded(self.yearday + 1, 3, out),
            b'u' => padded((self.weekday + 6) % 7 + 1, 1, out),
            b'w' => padded(self.weekday, 1, out),
            b'H' => padded(self.hour, 2, out),
            b'I' => padded(hour12, 2, out),
            b'k' => spaced(self.hour, out),
            b'l' => spaced(hour12, out),
            b'M' => padded(self.minute, 2, out),
            b'S' => padded(self.second, 2, out),
            b'p' => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            b'P' => out.extend_from_slice(if self.hour < 12 { b"am" } else { b"pm" }),
            b'b' | b'h' => out.extend_from_slice(&self.month_name()[..3]),
            b'B' => out.extend_from_slice(self.month_name()),
            b'a' => out.extend_from_slice(&self.day_name()[..3]),
            b'A' => out.extend_from_slice(self.day_name()),
            b'T' | b'X' => self.all(b"H:M:S", out),
            b'F' => self.all(b"Y-m-d", out),
            b'D' | b'x' => self.all(b"m/d/y", out),
            b'R' => self.all(b"H:M", out),
            b'r' => self.all(b"I:M:S p", out),
            b'c' => self.all(b"a b e T Y", out),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'z' => out.extend_from_slice(b"+0000"),
            _ => out.extend_from_slice(b"UTC"),
        }
    }

    fn all(self, fields: &[u8], out: &mut Vec<u8>) {
        for &field in fields {
            if FIELDS.contains(&field) { self.field(field, out) } else { out.push(field) }
        }
    }

    fn month_name(self) -> &'static [u8] {
        MONTHS[usize::try_from(self.month - 1).unwrap_or(0)].as_bytes()
    }

    fn day_name(self) -> &'static [u8] {
        DAYS[usize::try_from(self.weekday).unwrap_or(0)].as_bytes()
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

fn padded(n: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let text = decimal(n, &mut buffer);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(text.len())));
    out.extend_from_slice(text);
}

fn spaced(n: u64, out: &mut Vec<u8>) {
    if n < 10 {
        out.push(b' ');
    }
    padded(n, 1, out);
}

/// `2026-11-24T13:13:21.031Z`
pub(crate) fn iso_millis(at: WallTime, out: &mut Vec<u8>) {
    let c = Civil::of(at.seconds());
    let millis = at.0 / 1_000_000 % 1000;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let places = [
        (0, c.year / 100 % 100),
        (2, c.year % 100),
        (5, c.month),
        (8, c.day),
        (11, c.hour),
        (14, c.minute),
        (17, c.second),
        (20, millis / 10),
    ];
    for (place, two) in places {
        text[place] = digit(two / 10);
        text[place + 1] = digit(two);
    }
    text[22] = digit(millis);
    out.extend_from_slice(&text);
}

/// The last decimal digit.
fn digit(n: u64) -> u8 {
    b'0' + u8::try_from(n % 10).unwrap_or(0)
}

/// `Tue, 24 Nov 2026 13:13:20 GMT` //= rfc9110#5.6.7
pub fn http_date(at: WallTime) -> Vec<u8> {
    let mut out = Vec::with_capacity(29);
    Civil::of(at.seconds()).all(b"a, d b Y T", &mut out);
    out.extend_from_slice(b" GMT");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(format: &str, seconds: u64) -> String {
        let mut out = Vec::new();
        let at = WallTime(seconds * 1_000_000_000 + 31_000_000);
        TimeFormat::compile("START_TIME", format).expect("a format").write(at, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(http_date(WallTime(0)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(WallTime(951_782_400_000_000_000)), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(WallTime(1_795_526_001_000_000_000)), b"Tue, 24 Nov 2026 13:13:21 GMT");
    }

    /// Shown by Envoy for the same second.
    #[test]
    fn every_conversion() {
        let at = 1_795_632_139;
        assert_eq!(
            show("%A %a %B %b %h %C %c %D", at),
            "Wednesday Wed November Nov Nov 20 Wed Nov 25 18:42:19 2026 11/25/26"
        );
        assert_eq!(
            show("%d %e %F %G %g %H %I %j %k %l %M %m", at),
            "25 25 2026-11-25 2026 26 18 06 329 18  6 42 11"
        );
        assert_eq!(
            show("%P %p %R %r %S %T %U %u %V %W %w", at),
            "pm PM 18:42 06:42:19 PM 19 18:42:19 47 3 48 47 3"
        );
        assert_eq!(
            show("%X %x %Y %y %Z %z %:z %Ez %E4Y", at),
            "18:42:19 11/25/26 2026 26 UTC +0000 +00:00 +00:00 2026"
        );
        assert_eq!(show("%s %3s %f %3f %E3S %% x", at), "1795632139 1795632139 031000000 031 19.031 % x");
        // 1 January 2021 is a Friday of week 53 of 2020.
        assert_eq!(show("%G-%V %U %W %j", 1_609_459_200), "2020-53 00 00 001");
        assert_eq!(show("%G-%V %j", 1_609_372_800), "2020-53 366");
        for bad in ["%Q", "%", "%10f", "%E*S", "%3S"] {
            assert!(TimeFormat::compile("START_TIME", bad).is_err(), "{bad}");
        }
    }
}
