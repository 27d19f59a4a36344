//! Flags: exit codes and messages.

use crate::process::{Dir, run};

#[test]
fn flags_end_as_envoy_ends() {
    // Arguments, exit code, part of stdout, part of stderr.
    for (args, code, stdout, stderr) in [
        (&["--version"][..], 0, "/1.40.0/", ""),
        (&["--help"], 0, "--config-path", ""),
        (&["--hot-restart-version"], 0, "", "11.104"),
        (
            &["--nope"],
            1,
            "",
            "PARSE ERROR: Argument: --nope\n             Couldn't find match for argument\n\nBrief USAGE",
        ),
        (&["-c", "a", "-c", "b"], 1, "", "Argument already set!"),
        (&["-c", "a", "--config-path", "b"], 1, "", "Argument already set!"),
        (&["--config-path"], 1, "", "Missing a value for this argument!"),
        (&["--concurrency", "many"], 1, "", "Couldn't read argument value from string 'many'"),
        (&["--config-path=x"], 1, "", "Couldn't find match for argument"),
        (&["--mode", "check"], 1, "", "unknown mode 'check'"),
        (&["-l", "loud"], 1, "", "invalid log level specified 'loud'"),
        (&["--bootstrap-version", "3"], 1, "", "Couldn't find match for argument"),
        (&["--v2-config-only"], 1, "", "Couldn't find match for argument"),
        (&["--max-obj-name-len", "3"], 1, "", "Couldn't find match for argument"),
        (&["--driver", "dpdk"], 1, "", "dpdk"),
        (&[], 1, "", "At least one of --config-path or --config-yaml"),
        (
            &["-c", "/nowhere/x.yaml"],
            1,
            "",
            "unable to read file: /nowhere/x.yaml (No such file or directory)",
        ),
        (
            &["--mode", "validate", "--config-yaml", "{}", "--", "--run-id", "77"],
            0,
            "configuration '' OK\n",
            "",
        ),
        (&["--mode validate", "--config-yaml {}"], 0, "configuration '' OK\n", ""),
        (&["--mode", "init_only", "--config-yaml", "{}", "--disable-hot-restart"], 0, "", "exiting"),
        (&["demo", "--help"], 0, "usage: selvedge demo [--once]", ""),
        (&["demo", "--twice"], 1, "", "usage: selvedge demo [--once]"),
    ] {
        let ended = run(args, b"");
        let told = format!("{args:?}: {:?}\n{}\n{}", ended.code, ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(code), "{told}");
        assert!(ended.stdout.contains(stdout) && ended.stderr.contains(stderr), "{told}");
    }
}

/// Agents cut the version out of this line.
#[test]
fn the_version_has_five_parts() {
    let said = run(&["--version"], b"").stdout;
    let (before, version) = said.split_once("  version: ").expect("two blanks and the word");
    assert!(before.starts_with('\n') && said.ends_with("\n\n"), "{said:?}");
    let parts: Vec<&str> = version.trim().split('/').collect();
    assert_eq!(parts.len(), 5, "{version}");
    assert_eq!((parts[0].len(), parts[1]), (40, "1.40.0"));
}

/// Scripts of hot restarts read it; without hot restart there is none.
#[test]
fn the_base_id_is_written() {
    let dir = Dir::new();
    for (number, (args, written)) in [
        (&["--mode", "init_only", "--base-id", "80"][..], true),
        (&["--mode", "init_only", "--use-dynamic-base-id"], true),
        (&["--mode", "init_only", "--base-id", "80", "--disable-hot-restart"], false),
        (&["--mode", "validate", "--base-id", "80"], false),
    ]
    .into_iter()
    .enumerate()
    {
        let file = dir.path(&format!("id{number}"));
        let all = [args, &["--config-yaml", "{}", "--base-id-path", &file]].concat();
        assert_eq!(run(&all, b"").code, Some(0), "{args:?}");
        let id = std::fs::read_to_string(&file).ok();
        assert_eq!(id.is_some(), written, "{args:?}");
        assert!(id.is_none_or(
            |id| id == "80" || args.contains(&"--use-dynamic-base-id") && id.parse::<u32>().is_ok()
        ));
    }
    let ended = run(&["--mode", "init_only", "--config-yaml", "{}", "--base-id-path", "/no/such"], b"");
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("cannot open base id output file /no/such for writing"),
        "{}",
        ended.stderr
    );
}

/// One element of argv with a blank within: flag and value.
#[test]
fn a_flag_and_its_value_in_one_argument() {
    let dir = Dir::new();
    let config = dir.write("c.yaml", "node: {id: x}");
    let ended = run(&["--mode", "validate", &format!("-c {config}")], b"");
    assert_eq!((ended.code, ended.stdout), (Some(0), format!("configuration '{config}' OK\n")));
}
