//! `/help`, the answer to unknown paths, the page at `/`, and stats as a page.
//!
//! Everything that comes from a configuration or a request is escaped.

use std::fmt::Write;

use super::query::Query;
use super::reply::{HTML, Reply};
use super::{Admin, ENDPOINTS, Endpoint, Param, ParamKind};

pub(super) fn help(_: &Admin, _: &Query) -> Reply {
    Reply::text(commands("admin commands are:\n"))
}

pub(super) fn not_found() -> Reply {
    Reply::error(404, commands("invalid path. admin commands are:\n"))
}

fn commands(heading: &str) -> String {
    let mut out = heading.to_owned();
    for endpoint in ENDPOINTS {
        let post = if endpoint.mutates { " (POST)" } else { "" };
        let _infallible = writeln!(out, "  {}{post}: {}", endpoint.path, endpoint.about);
        for param in endpoint.params {
            let _infallible = write!(out, "      {}: {}", param.name, param.about);
            if let ParamKind::OneOf(values) = param.kind {
                let _infallible = write!(out, "; One of ({})", values.join(", "));
            }
            out.push('\n');
        }
    }
    out
}

pub(super) fn index(admin: &Admin, _: &Query) -> Reply {
    let epoch = admin.state.process.epoch();
    let node = &epoch.snapshot.node;
    let mut out = format!("{HEAD}</head>\n<body>\n");
    let _infallible = write!(
        out,
        "<h1>Selvedge <small>{}</small></h1>\n<p class='state'><b>{}</b> node <code>{}</code> cluster \
         <code>{}</code></p>\n<table class='home-table'>\n<thead><tr><th class='home-data'>Command</th>\
         <th class='home-data'>Description</th></tr></thead>\n<tbody>\n",
        crate::version::VERSION,
        admin.state_name(),
        escaped(or_dash(&node.id)),
        escaped(or_dash(&node.cluster)),
    );
    for (number, endpoint) in ENDPOINTS.iter().filter(|e| e.path != "/").enumerate() {
        write_rows(&mut out, number, endpoint, &Query::default());
    }
    out.push_str("</tbody>\n</table>\n</body>\n</html>\n");
    Reply::new(200, HTML, out)
}

/// The form of `/stats` as it was filled in, and what was found. `active`: anew every few seconds.
pub(super) fn stats(query: &Query, found: &str, active: bool) -> Reply {
    let refresh = if active { "<meta http-equiv='refresh' content='5'>\n" } else { "" };
    let mut out = format!(
        "{HEAD}{refresh}</head>\n<body>\n<h1>Selvedge <small><a href='.'>all commands</a></small></h1>\n\
         <table class='home-table'>\n<tbody>\n"
    );
    for endpoint in ENDPOINTS.iter().filter(|e| e.path == "/stats") {
        write_rows(&mut out, 0, endpoint, query);
    }
    let _infallible = write!(out, "</tbody>\n</table>\n<pre>\n{}</pre>\n</body>\n</html>\n", escaped(found));
    Reply::new(200, HTML, out)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// One command: a link, or a form with a button and a row for each parameter.
//= envoy: paths on the page are relative, so that it works behind a prefix
fn write_rows(out: &mut String, number: usize, endpoint: &Endpoint, query: &Query) {
    let path = &endpoint.path[1..];
    let row = if number.is_multiple_of(2) { "<tr>" } else { "<tr class='gray'>" };
    let method = if endpoint.mutates { "post" } else { "get" };
    let class = if endpoint.mutates { "" } else { " class='button-as-link'" };
    let command = if !endpoint.mutates && endpoint.params.is_empty() {
        format!("<a href='{path}'>{path}</a>")
    } else {
        format!(
            "<form action='{path}' method='{method}' id='{path}' class='home-form'>\
             <button{class}>{path}</button></form>"
        )
    };
    let about = escaped(endpoint.about);
    let _infallible =
        writeln!(out, "{row}<td class='home-data'>{command}</td><td class='home-data'>{about}</td></tr>");
    for param in endpoint.params {
        let id = format!("param-{number}-{}", param.name);
        let input = input(param, &id, path, query.get(param.name));
        let about = escaped(param.about);
        let _infallible = writeln!(
            out,
            "{row}<td class='option'>{input}</td><td class='home-data'><label for='{id}'>\
             <code>{}</code> {about}</label></td></tr>",
            param.name
        );
    }
}

/// The field of a parameter, with what was given for it.
fn input(param: &Param, id: &str, form: &str, given: Option<&str>) -> String {
    let name = param.name;
    let text = escaped(given.unwrap_or_default());
    let checked = if given.is_some() { " checked" } else { "" };
    match param.kind {
        ParamKind::Text => {
            format!("<input type='text' name='{name}' id='{id}' form='{form}' value='{text}'>")
        }
        ParamKind::Flag => {
            format!("<input type='checkbox' name='{name}' id='{id}' form='{form}'{checked}>")
        }
        ParamKind::OneOf(values) => {
            let mut out = format!("<select name='{name}' id='{id}' form='{form}'>");
            for value in values {
                let selected = if given == Some(*value) { " selected" } else { "" };
                let _infallible = write!(out, "<option value='{value}'{selected}>{value}</option>");
            }
            out + "</select>"
        }
    }
}

const HEAD: &str = "<!DOCTYPE html>
<html lang='en'>
<head>
<meta charset='utf-8'>
<meta name='viewport' content='width=device-width'>
<title>Selvedge Admin</title>
<link rel='icon' href='data:,'>
<script>
// Fields that are empty do not belong into the address.
addEventListener('submit', e => {
  const empty = [...e.target.elements].filter(f => f.name && f.type !== 'checkbox' && !f.value);
  empty.forEach(f => f.disabled = true);
  setTimeout(() => empty.forEach(f => f.disabled = false));
});
</script>
<style>
body { font-family: sans-serif; margin: 1.5em; color: #222; }
h1 { font-size: 1.4em; margin: 0; }
h1 small { font-weight: normal; color: #666; }
a { color: #069; }
pre { border-top: 1px solid #ccc; padding-top: 0.8em; }
.home-table { border-collapse: collapse; }
.home-data { text-align: left; padding: 4px 8px; vertical-align: top; }
.home-form { margin: 0; }
.button-as-link { background: none; border: none; padding: 0; font: inherit; color: #069;
  text-decoration: underline; cursor: pointer; }
.gray { background: #eee; }
.option { padding: 4px 8px 4px 20px; text-align: right; }
code { background: #f4f4f4; padding: 0 3px; }
</style>
";
