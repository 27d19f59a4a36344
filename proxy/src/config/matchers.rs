//! Compiles matchers of paths, headers, parameters and strings.

#![expect(deprecated, reason = "the older forms of matchers are part of the API")]

use ::regex::bytes::Regex;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use crate::config::regex;
use crate::config::rejection::{At, Fault};
use crate::config::runtime_values::RuntimeValues;
use crate::config::values::{self, refuse_set};
use crate::route::matchers::{
    Fraction, HeaderMatcher, HeaderRule, PathMatch, QueryMatcher, RouteMatch, StringMatcher, Subject,
};

const AT_LEAST_ONE: &str = "value length must be at least 1 characters";

pub fn route_match(
    rule: &route::RouteMatch,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<RouteMatch, Fault> {
    refuse_set!(at, "RouteMatch", rule, [cookies, tls_context, dynamic_metadata, filter_state]);
    let path = path_match(rule, at)?;
    let mut headers = Vec::new();
    for (i, header) in rule.headers.iter().enumerate() {
        headers.push(header_matcher(header, &at.item("RouteMatch", "headers", i))?);
    }
    let mut query = Vec::new();
    for (i, parameter) in rule.query_parameters.iter().enumerate() {
        query.push(query_matcher(parameter, &at.item("RouteMatch", "query_parameters", i))?);
    }
    let fraction = match &rule.runtime_fraction {
        Some(share) => Some(runtime_fraction(share, runtime, &at.field("RouteMatch", "runtime_fraction"))?),
        None => None,
    };
    Ok(RouteMatch {
        path,
        headers: headers.into(),
        query: query.into(),
        fraction,
        grpc_only: rule.grpc.is_some(),
    })
}

pub fn runtime_fraction(
    share: &core::RuntimeFractionalPercent,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<Fraction, Fault> {
    let Some(default) = &share.default_value else {
        return Err(at.field("RuntimeFractionalPercent", "default_value").violates("value is required"));
    };
    let default = values::fraction(default, &at.field("RuntimeFractionalPercent", "default_value"))?;
    Ok(runtime.fraction(&share.runtime_key, default))
}

fn path_match(rule: &route::RouteMatch, at: &At<'_>) -> Result<PathMatch, Fault> {
    use route::route_match::PathSpecifier;
    let ignore_case = rule.case_sensitive.as_ref().is_some_and(|c| !c.value);
    Ok(match &rule.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => {
            PathMatch::Prefix { prefix: prefix.as_bytes().into(), ignore_case }
        }
        Some(PathSpecifier::Path(path)) => PathMatch::Exact { path: path.as_bytes().into(), ignore_case },
        Some(PathSpecifier::SafeRegex(pattern)) => {
            PathMatch::Regex(safe_regex(pattern, &at.field("RouteMatch", "safe_regex"))?)
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let bad = prefix.len() < 2 || prefix.contains(['?', '#']) || prefix.ends_with('/');
            if bad {
                let here = at.field("RouteMatch", "path_separated_prefix");
                return Err(here.violates(r#"value does not match regex pattern "^[^?#]+[^?#/]$""#));
            }
            PathMatch::SeparatedPrefix { prefix: prefix.as_bytes().into(), ignore_case }
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            return Err(at.field("RouteMatch", "connect_matcher").not_implemented());
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return Err(at.field("RouteMatch", "path_match_policy").not_implemented());
        }
        None => return Err(at.lacks("path_specifier")),
    })
}

/// A pattern that must match the whole text.
pub fn safe_regex(pattern: &matcher::RegexMatcher, at: &At<'_>) -> Result<Regex, Fault> {
    check_pattern(pattern, at)?;
    regex::whole(&pattern.regex).map_err(|reason| at.refuse(reason))
}

/// A pattern that is searched for and replaced.
pub fn rewrite_regex(pattern: &matcher::RegexMatcher, at: &At<'_>) -> Result<Regex, Fault> {
    check_pattern(pattern, at)?;
    regex::search(&pattern.regex).map_err(|reason| at.refuse(reason))
}

fn check_pattern(pattern: &matcher::RegexMatcher, at: &At<'_>) -> Result<(), Fault> {
    if pattern.regex.is_empty() {
        return Err(at.field("RegexMatcher", "regex").violates(AT_LEAST_ONE));
    }
    Ok(())
}

pub fn header_matcher(rule: &route::HeaderMatcher, at: &At<'_>) -> Result<HeaderMatcher, Fault> {
    use route::header_matcher::HeaderMatchSpecifier as Spec;
    if rule.name.is_empty() {
        return Err(at.field("HeaderMatcher", "name").violates(AT_LEAST_ONE));
    }
    let name = rule.name.to_ascii_lowercase();
    let subject = match name.as_str() {
        ":method" => Subject::Method,
        ":path" => Subject::Path,
        ":authority" | "host" => Subject::Authority,
        ":scheme" => Subject::Scheme,
        name => Subject::Field(name.as_bytes().into()),
    };
    let text = |text: &String| text.as_bytes().into();
    let filled = |value: &String, field: &'static str| {
        if value.is_empty() { Err(at.field("HeaderMatcher", field).violates(AT_LEAST_ONE)) } else { Ok(()) }
    };
    let compiled = match &rule.header_match_specifier {
        None => HeaderRule::Present(true),
        //= envoy: observed on 1.40.0: an empty exact_match asks for presence alone
        Some(Spec::ExactMatch(value)) if value.is_empty() => HeaderRule::Present(true),
        Some(Spec::PresentMatch(wanted)) => HeaderRule::Present(*wanted),
        Some(Spec::RangeMatch(range)) => HeaderRule::Range { start: range.start, end: range.end },
        Some(Spec::ExactMatch(value)) => {
            HeaderRule::Text(StringMatcher::Exact { text: text(value), ignore_case: false })
        }
        Some(Spec::PrefixMatch(value)) => {
            filled(value, "prefix_match")?;
            HeaderRule::Text(StringMatcher::Prefix { text: text(value), ignore_case: false })
        }
        Some(Spec::SuffixMatch(value)) => {
            filled(value, "suffix_match")?;
            HeaderRule::Text(StringMatcher::Suffix { text: text(value), ignore_case: false })
        }
        Some(Spec::ContainsMatch(value)) => {
            filled(value, "contains_match")?;
            HeaderRule::Text(StringMatcher::Contains { text: text(value), ignore_case: false })
        }
        Some(Spec::SafeRegexMatch(pattern)) => {
            let here = at.field("HeaderMatcher", "safe_regex_match");
            HeaderRule::Text(StringMatcher::Regex(safe_regex(pattern, &here)?))
        }
        Some(Spec::StringMatch(inner)) => {
            HeaderRule::Text(string_matcher(inner, &at.field("HeaderMatcher", "string_match"))?)
        }
    };
    Ok(HeaderMatcher {
        subject,
        rule: compiled,
        invert: rule.invert_match,
        missing_is_empty: rule.treat_missing_header_as_empty,
    })
}

fn query_matcher(rule: &route::QueryParameterMatcher, at: &At<'_>) -> Result<QueryMatcher, Fault> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    if rule.name.is_empty() {
        return Err(at.field("QueryParameterMatcher", "name").violates(AT_LEAST_ONE));
    }
    if rule.name.len() > 1024 {
        let here = at.field("QueryParameterMatcher", "name");
        return Err(here.violates("value length must be at most 1024 bytes"));
    }
    let (value, present) = match &rule.query_parameter_match_specifier {
        Some(Spec::StringMatch(inner)) => {
            (Some(string_matcher(inner, &at.field("QueryParameterMatcher", "string_match"))?), true)
        }
        Some(Spec::PresentMatch(wanted)) => (None, *wanted),
        None => (None, true),
    };
    Ok(QueryMatcher { name: rule.name.as_bytes().into(), value, present })
}

pub fn string_matcher(rule: &matcher::StringMatcher, at: &At<'_>) -> Result<StringMatcher, Fault> {
    use matcher::string_matcher::MatchPattern as Pattern;
    let ignore_case = rule.ignore_case;
    let filled = |value: &String, field: &'static str| -> Result<Box<[u8]>, Fault> {
        if value.is_empty() {
            return Err(at.field("StringMatcher", field).violates(AT_LEAST_ONE));
        }
        Ok(value.as_bytes().into())
    };
    Ok(match &rule.match_pattern {
        None => return Err(at.lacks("match_pattern")),
        Some(Pattern::Exact(value)) => StringMatcher::Exact { text: value.as_bytes().into(), ignore_case },
        Some(Pattern::Prefix(value)) => StringMatcher::Prefix { text: filled(value, "prefix")?, ignore_case },
        Some(Pattern::Suffix(value)) => StringMatcher::Suffix { text: filled(value, "suffix")?, ignore_case },
        Some(Pattern::Contains(value)) => {
            StringMatcher::Contains { text: filled(value, "contains")?, ignore_case }
        }
        Some(Pattern::SafeRegex(pattern)) => {
            let regex = safe_regex(pattern, &at.field("StringMatcher", "safe_regex"))?;
            if ignore_case {
                return Err(at.refuse("ignore_case has no effect for safe_regex."));
            }
            StringMatcher::Regex(regex)
        }
        Some(Pattern::Custom(_)) => return Err(at.field("StringMatcher", "custom").not_implemented()),
    })
}
