//! Command lines and what becomes of them; the expectations were read off Envoy 1.40.

use super::*;

fn run(line: &[&str]) -> Result<Options, Exit> {
    let args: Vec<String> = std::iter::once("envoy").chain(line.iter().copied()).map(str::to_owned).collect();
    parse(&args, None)
}

fn stderr_of(line: &[&str]) -> String {
    match run(line) {
        Ok(_) => "OK".to_owned(),
        Err(exit) => {
            assert!(exit.stdout.is_empty(), "{line:?}: {}", exit.stdout);
            format!("{} {}", exit.code, exit.stderr)
        }
    }
}

#[test]
fn faults_of_the_command_line() {
    for (line, argument, message) in [
        (&["--nope"][..], "--nope", "Couldn't find match for argument"),
        (&["foo"], "foo", "Couldn't find match for argument"),
        (&["--config-path=x"], "--config-path=x", "Couldn't find match for argument"),
        (&["-cx"], "-cx", "Couldn't find match for argument"),
        (&["--disable-hot-restart=1"], "--disable-hot-restart=1", "Couldn't find match for argument"),
        (&["--disable-hot-restart x"], "--disable-hot-restart x", "Couldn't find match for argument"),
        (&["-h x"], "-h x", "Couldn't find match for argument"),
        (&["--hel"], "--hel", "Couldn't find match for argument"),
        (&["--bootstrap-version", "3"], "--bootstrap-version", "Couldn't find match for argument"),
        (&["--v2-config-only"], "--v2-config-only", "Couldn't find match for argument"),
        (&["--max-obj-name-len", "5"], "--max-obj-name-len", "Couldn't find match for argument"),
        (&["-l", "-c", "min.yaml"], "min.yaml", "Couldn't find match for argument"),
        (&["-c "], "-c (--config-path)", "Missing a value for this argument!"),
        (&["-c"], "-c (--config-path)", "Missing a value for this argument!"),
        (&["--base-id"], "(--base-id)", "Missing a value for this argument!"),
        (&["--stats-tag"], "(--stats-tag)", "Missing a value for this argument!"),
        (&["-c", "a", "--config-path", "b"], "-c (--config-path)", "Argument already set!"),
        (
            &["--disable-hot-restart", "--disable-hot-restart"],
            "(--disable-hot-restart)",
            "Argument already set!",
        ),
        (&["-hh"], "-h (--help)", "Argument already set!"),
        (&["--concurrency", "x"], "(--concurrency)", "Couldn't read argument value from string 'x'"),
        (&["--concurrency", "3 4"], "(--concurrency)", "More than one valid value parsed from string '3 4'"),
        (&["--nope", "--version"], "--nope", "Couldn't find match for argument"),
        (&["--hot-restart-version", "--nope"], "--nope", "Couldn't find match for argument"),
    ] {
        let stderr = stderr_of(line);
        let head = format!(
            "1 PARSE ERROR: Argument: {argument}\n             {message}\n\nBrief USAGE: \n   envoy  [--"
        );
        assert!(stderr.starts_with(&head), "{line:?}: {stderr}");
        let tail = format!("type: \n   envoy --help\n\n{argument} -- {message}\n");
        assert!(stderr.ends_with(&tail), "{line:?}: {stderr}");
    }
}

#[test]
fn faults_of_values() {
    for (line, expected) in [
        (&["--mode", "foo"][..], "error: unknown mode 'foo'"),
        (&["--mode", "foo", "-l", "bad"], "error: invalid log level specified 'bad'"),
        (
            &["--mode", "foo", "--component-log-level", "x"],
            "error: component log level not correctly specified 'x'",
        ),
        (&["--mode", "foo", "--local-address-ip-version", "v7"], "error: unknown mode 'foo'"),
        (
            &["--drain-strategy", "x", "--local-address-ip-version", "v7"],
            "error: unknown IP address version 'v7'",
        ),
        (&["--drain-strategy", "x", "--hot-restart-version"], "error: unknown drain-strategy 'x'"),
        (&["-l", "INFO"], "error: invalid log level specified 'INFO'"),
        (&["--component-log-level", "nope:dbg"], "error: invalid log level specified 'dbg'"),
        (&["--component-log-level", "upstream:debug,nope:info"], "error: invalid component specified 'nope'"),
        (
            &["--component-log-level", "upstream:debug,"],
            "error: component log level not correctly specified ''",
        ),
        (
            &["--component-log-level", "upstream:debug:x"],
            "error: component log level not correctly specified 'upstream:debug:x'",
        ),
        (
            &["--enable-fine-grain-logging", "--component-log-level", "x"],
            "error: --component-log-level will not work with --enable-fine-grain-logging",
        ),
        (
            &["--restart-epoch", "1", "--use-dynamic-base-id"],
            "error: cannot use --restart-epoch=1 with --use-dynamic-base-id",
        ),
        (
            &["--restart-epoch", "1"],
            "error: --restart-epoch 1: taking over from a running process is not implemented; start with --disable-hot-restart or --skip-hot-restart-on-no-parent",
        ),
        (&["--stats-tag", "a"], "error: misformatted stats-tag 'a'"),
        (&["--stats-tag", "a-b:c"], "error: misformatted stats-tag 'a-b:c' contains invalid char in 'a-b'"),
        (&["--stats-tag", "a:b.c"], "error: misformatted stats-tag 'a:b.c' contains invalid char in 'b.c'"),
        (&["--stats-tag", "a:"], "error: misformatted stats-tag 'a:' contains invalid char in ''"),
        (&["--concurrency", "-1"], "error: --concurrency 4294967295 is more than 4096 shards"),
        (&["--driver", "dpdk"], "error: --driver: driver 'dpdk' is none of auto, uring, epoll"),
        (&["--spin-us", "100001"], "error: --spin-us 100001 is more than 100000"),
    ] {
        assert_eq!(stderr_of(line), format!("1 {expected}\n"), "{line:?}");
    }
}

#[test]
fn answers() {
    let exit = |line: &[&str]| run(line).expect_err("ends");
    let version = exit(&["--version", "--nope"]);
    let text = format!("\nenvoy  version: {}\n\n", version::line());
    assert_eq!(version, Exit { code: 0, stdout: text, stderr: String::new() });
    for line in [&["--help"][..], &["-h"], &["-xh"], &["-h", "--version"], &["--help", "extra"]] {
        let help = exit(line);
        assert!(help.code == 0 && help.stderr.is_empty(), "{line:?}");
        assert!(help.stdout.starts_with("\nUSAGE: \n\n   envoy  [--driver <string>]"), "{}", help.stdout);
        assert!(help.stdout.contains("SELVEDGE_DRIVER") && help.stdout.contains("demo [--once]"));
    }
    for (line, expected) in [
        (&["--hot-restart-version"][..], "11.104"),
        (&["--hot-restart-version", "--disable-hot-restart"], "disabled"),
        (&["--hot-restart-version", "--stats-tag", "x"], "11.104"),
    ] {
        let answer = exit(line);
        assert_eq!((answer.code, &*answer.stderr, &*answer.stdout), (0, expected, ""), "{line:?}");
    }
}

#[test]
fn defaults_are_envoys() {
    let o = run(&[]).expect("options");
    assert_eq!((o.mode, o.concurrency, o.log_level), (Mode::Serve, None, Level::Info));
    assert_eq!(
        (o.drain_time_s, o.parent_shutdown_time_s, o.drain_strategy),
        (600, 900, DrainStrategy::Gradual)
    );
    assert_eq!((o.file_flush_interval, o.file_flush_min_size_kb), (Duration::from_secs(10), 64));
    assert_eq!(
        (&*o.socket_path, &*o.log_format),
        ("@envoy_domain_socket", "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v")
    );
    assert_eq!((o.driver, o.spin_us, o.restart_epoch, o.base_id), (DriverChoice::Auto, 0, 0, 0));
}

#[test]
fn values_arrive() {
    let o = run(&[
        "-c",
        "a.yaml",
        "--config-yaml",
        "{}",
        "--mode",
        "init_only",
        "--concurrency",
        "0",
        "-l",
        "warn",
        "--component-log-level",
        "upstream:debug,config:trace",
        "--service-cluster sc",
        "--service-node",
        "sn",
        "--service-zone",
        "sz",
        "--stats-tag",
        "a:b",
        "--stats-tag",
        "c:d e",
        "--stats-tag",
        "a:x",
        "--drain-strategy",
        "immediate",
        "--drain-time-s",
        "5",
        "--disable-extensions",
        "x,y",
        "--allow-unknown-fields",
        "--restart-epoch",
        "2",
        "--disable-hot-restart",
        "",
        "-",
        "--admin-address-path",
        "--strange",
        "--driver",
        "epoll",
        "--spin-us",
        "7",
        "--",
        "--run-id",
        "5",
    ])
    .expect("options");
    assert_eq!((&*o.config_path, &*o.config_yaml, o.mode), ("a.yaml", "{}", Mode::InitOnly));
    assert_eq!((o.concurrency, o.log_level), (Some(1), Level::Warning));
    assert_eq!(o.component_log_levels, [("upstream", Level::Debug), ("config", Level::Trace)]);
    assert_eq!((&*o.service_cluster, &*o.service_node, &*o.service_zone), ("sc", "sn", "sz"));
    assert_eq!(o.stats_tags, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d e".to_owned())]);
    assert_eq!((o.drain_strategy, o.drain_time_s), (DrainStrategy::Immediate, 5));
    assert_eq!(o.disabled_extensions, ["x", "y"]);
    let texts: Vec<&str> = o.notes.iter().skip(1).map(|(_, _, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        ["failed to disable invalid extension name 'x'", "failed to disable invalid extension name 'y'"]
    );
    assert!(o.allow_unknown_static_fields && o.disable_hot_restart && o.restart_epoch == 2);
    assert_eq!(&*o.admin_address_path, "--strange");
    assert_eq!((o.driver, o.spin_us), (DriverChoice::Epoll, 7));
    assert!(o.notes[0].2.contains("deprecated"), "{:?}", o.notes);
}

#[test]
fn the_environment_names_a_driver_and_the_flag_wins() {
    let with = |line: &[&str], environment| {
        let args: Vec<String> = std::iter::once("x").chain(line.iter().copied()).map(str::to_owned).collect();
        parse(&args, environment).map(|o| o.driver).map_err(|e| e.stderr)
    };
    assert_eq!(with(&[], Some("epoll")), Ok(DriverChoice::Epoll));
    assert_eq!(with(&["--driver", "uring"], Some("epoll")), Ok(DriverChoice::Uring));
    assert_eq!(with(&[], Some("")), Ok(DriverChoice::Auto));
    assert!(with(&[], Some("x")).is_err_and(|e| e.starts_with("error: SELVEDGE_DRIVER: ")));
}
