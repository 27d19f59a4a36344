//! The `selvedge` binary.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: selvedge_runtime::memory::Allocator = selvedge_runtime::memory::ALLOCATOR;

use selvedge::{args, demo, server};

fn main() -> ExitCode {
    selvedge_runtime::memory::without_huge_pages();
    let line: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if line.get(1).is_some_and(|first| first == "demo") {
        return demo_main(&line[2..]);
    }
    let driver = std::env::var("SELVEDGE_DRIVER").ok();
    let code = match args::parse(&line, driver.as_deref()) {
        Ok(options) => server::run(options),
        Err(exit) => {
            // A reader that left has nothing to be told.
            let _reader_left = io::stdout().write_all(exit.stdout.as_bytes());
            let _reader_left = io::stderr().write_all(exit.stderr.as_bytes());
            exit.code
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn demo_main(rest: &[String]) -> ExitCode {
    let once = match rest {
        [] => false,
        [only] if only == "--once" => true,
        [only] if matches!(only.as_str(), "-h" | "--help") => {
            let _reader_left = writeln!(io::stdout(), "{DEMO_USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("demo: unknown argument; {DEMO_USAGE}");
            return ExitCode::from(1);
        }
    };
    ExitCode::from(u8::try_from(demo::run(once)).unwrap_or(1))
}

const DEMO_USAGE: &str = "usage: selvedge demo [--once]; --once ends after the requests";
