//! Patterns and what Envoy 1.40 does with them: refused, or accepted with the texts that they match whole.

use super::*;

/// What every pattern is asked.
const TEXTS: &[&str] = &[
    r#""#,
    r#"a"#,
    r#"b"#,
    r#"ab"#,
    r#"aab"#,
    r#"abc"#,
    r#"A"#,
    r#"1"#,
    r#"12"#,
    r#"-"#,
    r#"]"#,
    r#"["#,
    r#"\"#,
    r#"{"#,
    r#"}"#,
    r#"a{,2}"#,
    r#"a{"#,
    r#"{2}"#,
    r#"&&"#,
    r#"a&&b"#,
    r#"--"#,
    r#"."#,
    r#"é"#,
    r#"É"#,
    r#"ſ"#,
    r#"K"#,
    r#"_"#,
    r#"^"#,
    r#"a^"#,
    r#"$"#,
    r#"a$"#,
    r#"x"#,
    r#"z"#,
    r#"aé"#,
    r#"ǅ"#,
    r#"α"#,
    r#"٣"#,
    r#"a]"#,
    r#"a-c"#,
    r#"[a]"#,
    r#"[:alpha:]"#,
    r#"Q"#,
    r#"\E"#,
    r#"aa"#,
    r#"aaa"#,
    r#"0"#,
    r#"7"#,
];

/// Refused, with the beginning of the reason.
const REFUSED: &[(&str, &str)] = &[
    (r#"{2}"#, r#"no argument for repetition operator"#),
    (r#"a{2}{3}"#, r#"bad repetition operator"#),
    (r#"a**"#, r#"bad repetition operator"#),
    (r#"a?+"#, r#"bad repetition operator"#),
    (r#"*a"#, r#"no argument for repetition operator"#),
    (r#"+"#, r#"no argument for repetition operator"#),
    (r#"(a"#, r#"missing )"#),
    (r#"a)"#, r#"unexpected )"#),
    (r#"\p{lu}"#, r#"invalid character class range"#),
    (r#"\p{greek}"#, r#"invalid character class range"#),
    (r#"\pX"#, r#"invalid character class range"#),
    (r#"\p{Foo}"#, r#"invalid character class range"#),
    (r#"\p{gc=L}"#, r#"invalid character class range"#),
    (r#"[[:foo:]]"#, r#"invalid character class range"#),
    (r#"[a--b]"#, r#"invalid character class range"#),
    (r#"[]"#, r#"missing ]"#),
    (r#"[a"#, r#"missing ]"#),
    (r#"[b-a]"#, r#"invalid character class range"#),
    (r#"\E"#, r#"invalid escape sequence"#),
    (r#"\Z"#, r#"invalid escape sequence"#),
    (r#"\G"#, r#"invalid escape sequence"#),
    (r#"\1"#, r#"invalid escape sequence"#),
    (r#"\8"#, r#"invalid escape sequence"#),
    (r#"\x6"#, r#"invalid escape sequence"#),
    (r#"\x{}"#, r#"invalid escape sequence"#),
    (r#"\x{110000}"#, r#"invalid escape sequence"#),
    (r#"\x{d800}"#, r#"invalid escape sequence"#),
    (r#"\u0061"#, r#"invalid escape sequence"#),
    (r#"\e"#, r#"invalid escape sequence"#),
    (r#"\c"#, r#"invalid escape sequence"#),
    (r#"\h"#, r#"invalid escape sequence"#),
    (r#"\R"#, r#"invalid escape sequence"#),
    (r#"\X"#, r#"invalid escape sequence"#),
    (r#"\K"#, r#"invalid escape sequence"#),
    (r#"\é"#, r#"invalid escape sequence"#),
    (r#"\"#, r#"trailing \"#),
    (r#"(?P<>a)"#, r#"invalid named capture group"#),
    (r#"(?P=n)"#, r#"invalid perl operator"#),
    (r#"(?'n'a)"#, r#"invalid perl operator"#),
    (r#"(?=a)"#, r#"invalid perl operator"#),
    (r#"(?!a)"#, r#"invalid perl operator"#),
    (r#"(?<=a)"#, r#"invalid perl operator"#),
    (r#"(?<!a)"#, r#"invalid perl operator"#),
    (r#"(?>a)"#, r#"invalid perl operator"#),
    (r#"(?#x)"#, r#"invalid perl operator"#),
    (r#"(?x)a b"#, r#"invalid perl operator"#),
    (r#"(?u)a"#, r#"invalid perl operator"#),
    (r#"(?i-)a"#, r#"invalid perl operator"#),
    (r#"(?"#, r#"invalid perl operator"#),
    (r#"(?a"#, r#"invalid perl operator"#),
    (r#"(?P"#, r#"invalid perl operator"#),
    (r#"a{1001}"#, r#"invalid repetition size"#),
    (r#"(a{100}){11}"#, r#"invalid repetition size"#),
    (r#"((a{10}){10}){11}"#, r#"invalid repetition size"#),
    (r#"a{2,1}"#, r#"invalid repetition size"#),
    (r#"\x{3b1}"#, r#"invalid escape sequence"#),
    (r#"(?i)\x{17f}"#, r#"invalid escape sequence"#),
    (r#"[a-\d]"#, r#"invalid escape sequence"#),
    (r#"[a\Qb\E]"#, r#"invalid escape sequence"#),
    (r#"[\b]"#, r#"invalid escape sequence"#),
    (r#"[\B]"#, r#"invalid escape sequence"#),
    (r#"[\8]"#, r#"invalid escape sequence"#),
    (r#"[\1]"#, r#"invalid escape sequence"#),
];

/// Accepted, with those of the texts that match.
const ACCEPTED: &[(&str, &[&str])] = &[
    (r#"a"#, &[r#"a"#]),
    (r#"a|b"#, &[r#"a"#, r#"b"#]),
    (r#"[ab]+"#, &[r#"a"#, r#"b"#, r#"ab"#, r#"aab"#, r#"aa"#, r#"aaa"#]),
    (r#"[a-c]"#, &[r#"a"#, r#"b"#]),
    (
        r#"[^a]"#,
        &[
            r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#, r#"_"#,
            r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"a{2}"#, &[r#"aa"#]),
    (r#"a{2,}"#, &[r#"aa"#, r#"aaa"#]),
    (r#"a{2,3}"#, &[r#"aa"#, r#"aaa"#]),
    (r#"a{,2}"#, &[r#"a{,2}"#]),
    (r#"a{"#, &[r#"a{"#]),
    (r#"{"#, &[r#"{"#]),
    (r#"}"#, &[r#"}"#]),
    (r#"]"#, &[r#"]"#]),
    (r#"a*?"#, &[r#""#, r#"a"#, r#"aa"#, r#"aaa"#]),
    (r#"a+?b"#, &[r#"ab"#, r#"aab"#]),
    (r#"()"#, &[r#""#]),
    (r#"(?:a|b)c?"#, &[r#"a"#, r#"b"#]),
    (r#"(?i)ab?"#, &[r#"a"#, r#"ab"#, r#"A"#]),
    (r#"(?i:A)b"#, &[r#"ab"#]),
    (
        r#"(?s)."#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (
        r#"."#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"^a$"#, &[r#"a"#]),
    (r#"a^"#, &[]),
    (r#"a$"#, &[r#"a"#]),
    (r#"\d"#, &[r#"1"#, r#"0"#, r#"7"#]),
    (
        r#"\D"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#, r#"_"#,
            r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#,
        ],
    ),
    (r#"\w"#, &[r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"K"#, r#"_"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#]),
    (r#"\s"#, &[]),
    (
        r#"\S"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"[\d-]"#, &[r#"1"#, r#"-"#, r#"0"#, r#"7"#]),
    (r#"[\w]"#, &[r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"K"#, r#"_"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#]),
    (r#"\pL"#, &[r#"a"#, r#"b"#, r#"A"#, r#"K"#, r#"x"#, r#"z"#, r#"Q"#]),
    (r#"\p{Greek}"#, &[]),
    (
        r#"\P{L}"#,
        &[
            r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"_"#, r#"^"#, r#"$"#, r#"0"#,
            r#"7"#,
        ],
    ),
    (r#"\p{Nd}"#, &[r#"1"#, r#"0"#, r#"7"#]),
    (r#"\p{Lu}"#, &[r#"A"#, r#"K"#, r#"Q"#]),
    (
        r#"\p{^L}"#,
        &[
            r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"_"#, r#"^"#, r#"$"#, r#"0"#,
            r#"7"#,
        ],
    ),
    (
        r#"\p{Any}"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"[[:alpha:]]"#, &[r#"a"#, r#"b"#, r#"A"#, r#"K"#, r#"x"#, r#"z"#, r#"Q"#]),
    (
        r#"[[:^alpha:]]"#,
        &[
            r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"_"#, r#"^"#, r#"$"#, r#"0"#,
            r#"7"#,
        ],
    ),
    (
        r#"[[:word:]]"#,
        &[r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"K"#, r#"_"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#],
    ),
    (r#"[:alpha:]"#, &[r#"a"#]),
    (r#"[a&&b]"#, &[r#"a"#, r#"b"#]),
    (r#"[a-c&&b]"#, &[r#"a"#, r#"b"#]),
    (r#"[a~~b]"#, &[r#"a"#, r#"b"#]),
    (r#"[[a]"#, &[r#"a"#, r#"["#]),
    (r#"[[a]]"#, &[r#"a]"#]),
    (r#"[]a]"#, &[r#"a"#, r#"]"#]),
    (
        r#"[^]a]"#,
        &[
            r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#, r#"_"#, r#"^"#,
            r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"[a-]"#, &[r#"a"#, r#"-"#]),
    (r#"[-a]"#, &[r#"a"#, r#"-"#]),
    (r#"[\]a]"#, &[r#"a"#, r#"]"#]),
    (r#"\Qa.b\E"#, &[]),
    (r#"\Q&&"#, &[r#"&&"#]),
    (r#"\Q"#, &[r#""#]),
    (r#"\a"#, &[]),
    (r#"\b"#, &[]),
    (r#"\bab\b"#, &[r#"ab"#]),
    (r#"\B"#, &[r#""#]),
    (r#"\A"#, &[r#""#]),
    (r#"\z"#, &[r#""#]),
    (
        r#"\C"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"\0"#, &[]),
    (r#"\07"#, &[]),
    (r#"\012"#, &[]),
    (r#"\x61"#, &[r#"a"#]),
    (r#"\x{61}"#, &[r#"a"#]),
    (r#"\_"#, &[r#"_"#]),
    (r#"\-"#, &[r#"-"#]),
    (r#"\&"#, &[]),
    (r#"\ "#, &[]),
    (r#"(?P<n>a)"#, &[r#"a"#]),
    (r#"(?<n>a)"#, &[r#"a"#]),
    (r#"(?P<n>a)(?P<n>b)"#, &[r#"ab"#]),
    (r#"(?P<1>a)"#, &[r#"a"#]),
    (r#"(?U)a+"#, &[r#"a"#, r#"aa"#, r#"aaa"#]),
    (r#"(?-i)a"#, &[r#"a"#]),
    (r#"(?i-s:a)"#, &[r#"a"#, r#"A"#]),
    (r#"(?)a"#, &[r#"a"#]),
    (r#"(?:)"#, &[r#""#]),
    (r#"a{0}"#, &[r#""#]),
    (r#"a{0,0}"#, &[r#""#]),
    (r#"a{01}"#, &[]),
    (r#"a{1,02}"#, &[]),
    (r#"a{99999999999}"#, &[]),
    (r#"(?i)k"#, &[r#"K"#]),
    (r#"(?i)[k]"#, &[r#"K"#]),
    (r#"é"#, &[r#"é"#]),
    (r#"[é]"#, &[]),
    (r#"[α-ω]"#, &[]),
    (r#"(?m)^a$"#, &[r#"a"#]),
    (r#"a||b"#, &[r#""#, r#"a"#, r#"b"#]),
    (r#"|"#, &[r#""#]),
    (r#"|a"#, &[r#""#, r#"a"#]),
    (r#"a|"#, &[r#""#, r#"a"#]),
    (r#"(|a)"#, &[r#""#, r#"a"#]),
    (r#"a#b"#, &[]),
    (r#"a b"#, &[]),
    (r#"a/b"#, &[]),
    (r#"\pN"#, &[r#"1"#, r#"0"#, r#"7"#]),
    (r#"[\pL\d]"#, &[r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"K"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#]),
    (
        r#"[^\pL]"#,
        &[
            r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"_"#, r#"^"#, r#"$"#, r#"0"#,
            r#"7"#,
        ],
    ),
    (
        r#"[^\d]"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#, r#"_"#,
            r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#,
        ],
    ),
    (r#"[^\D]"#, &[r#"1"#, r#"0"#, r#"7"#]),
    (
        r#"[\D]"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#, r#"_"#,
            r#"^"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#,
        ],
    ),
    (r#"[\x61-\x63]"#, &[r#"a"#, r#"b"#]),
    (r#"[\a-\f]"#, &[]),
    (r#"[\d-a]"#, &[r#"a"#, r#"1"#, r#"-"#, r#"0"#, r#"7"#]),
    (r#"[+--]"#, &[r#"-"#]),
    (r#"[--/]"#, &[r#"-"#, r#"."#]),
    (r#"[%--]"#, &[r#"-"#]),
    (
        r#"[^^]"#,
        &[
            r#"a"#, r#"b"#, r#"A"#, r#"1"#, r#"-"#, r#"]"#, r#"["#, r#"\"#, r#"{"#, r#"}"#, r#"."#, r#"K"#,
            r#"_"#, r#"$"#, r#"x"#, r#"z"#, r#"Q"#, r#"0"#, r#"7"#,
        ],
    ),
    (r#"[$]"#, &[r#"$"#]),
    (r#"[.]"#, &[r#"."#]),
    (r#"[*]"#, &[]),
    (r#"[(]"#, &[]),
    (r#"[\0]"#, &[]),
    (r#"\pZ|a"#, &[r#"a"#]),
    (r#"(((((a)))))"#, &[r#"a"#]),
    (r#"x*"#, &[r#""#, r#"x"#]),
    (r#"(a*)*"#, &[r#""#, r#"a"#, r#"aa"#, r#"aaa"#]),
    (r#"(a*)+"#, &[r#""#, r#"a"#, r#"aa"#, r#"aaa"#]),
    (r#"(a|b)*c|d"#, &[r#"abc"#]),
];

#[test]
fn patterns_are_refused_as_envoy_refuses_them() {
    for (pattern, reason) in REFUSED {
        let error = whole(pattern).expect_err(pattern);
        assert!(error.starts_with(reason), "{pattern}: {error}, and not {reason}");
    }
}

#[test]
fn patterns_match_what_they_match_in_envoy() {
    for (pattern, matched) in ACCEPTED {
        let regex = whole(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        let found: Vec<&str> = TEXTS.iter().copied().filter(|t| regex.is_match(t.as_bytes())).collect();
        assert_eq!(found, *matched, "{pattern}");
    }
}

#[test]
fn what_is_not_implemented_is_said() {
    for pattern in ["(?i)é", r"(?i)[\xe9]", r"a(?i:\351)"] {
        let error = whole(pattern).expect_err(pattern);
        assert!(error.starts_with("case-insensitive matching beyond ASCII is not implemented"), "{error}");
    }
    assert!(whole("(?-i)é").is_ok());
}

/// A class whose name would end before it begins: RE2 looks for the end behind the colon.
#[test]
fn an_open_bracket_and_a_colon_are_characters() {
    let regex = whole("[[:]").expect("two characters");
    assert_eq!(["[", ":", "]"].map(|t| regex.is_match(t.as_bytes())), [true, true, false]);
    assert!(whole("[[:]a:]").expect_err("no such class").starts_with("invalid character class range"));
}

#[test]
fn a_flag_may_stand_twice() {
    let found = |pattern: &str| ["a", "A"].map(|t| whole(pattern).expect(pattern).is_match(t.as_bytes()));
    assert_eq!(found("(?ii)a"), [true, true]);
    assert_eq!(found("(?i-i)a"), [true, false]);
    assert_eq!(found("(?si-ss:a)"), [true, true]);
}

#[test]
fn programs_are_bounded() {
    assert_eq!(
        whole(&"a".repeat(PATTERN_BYTES_MAX + 1)).expect_err("too long"),
        "pattern too large - compile failed"
    );
    assert_eq!(whole(&"(".repeat(1000)).expect_err("too deep"), "expression nests too deeply");
    assert!(whole(r"((\pL{10}){10}){10}").is_ok_and(|r| r.is_match(&[b'a'; 1000])));
}
