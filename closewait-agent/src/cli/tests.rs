use clap::CommandFactory as _;

use std::path::Path;

use super::{replay::speed, *};
use closewait_engine::model::Class;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn durations_of_people_are_understood() {
    for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
    }
    assert!(duration("soon").is_err());
    assert!(positive_duration("0s").is_err());
}

#[test]
fn the_name_of_a_host_is_one_of_a_node_and_nothing_that_a_terminal_would_act_on() {
    let longest = "n".repeat(253);
    for name in ["node-1.example", "ip-10-0-0-1", "web_17", &longest] {
        assert_eq!(host_name(name).as_deref(), Ok(name));
    }
    for name in ["", "a b", "a\u{1b}[2J", "ü", "a/b", &format!("{longest}n")] {
        assert!(host_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_map_that_the_kernel_would_read_for_too_long_is_refused() {
    let parse = |count: &str| Cli::try_parse_from(["closewait", "run", "--max-sockets", count]);
    assert!(parse("1").is_ok() && parse("1048576").is_ok());
    for count in ["0", "1048577", "16777216"] {
        let error = parse(count).unwrap_err().to_string();
        assert!(error.contains("is not in 1..=1048576"), "{error}");
    }
}

#[test]
fn filters_take_several_values_and_say_what_they_take() {
    let parse = |args: &[&str]| Cli::try_parse_from([&["closewait", "list"], args].concat());
    let Command::List(list) =
        parse(&["--pid", "1,2", "--pid=3", "--peer", "10.0.0.0/8,[::1]:80", "--verdict", "hung,never_accepted"])
            .unwrap()
            .into_command()
    else {
        unreachable!()
    };
    assert_eq!((list.filters.pid, list.filters.peer.len()), (vec![1, 2, 3], 2));
    assert_eq!(list.filters.verdict, [Class::Hung, Class::NeverAccepted]);
    for (args, hint) in [
        (["--verdict", "stuck"], "hung, leak, pool"),
        (["--peer", "example.org"], "write it like 10.0.0.7"),
        (["--by", "port"], "process, listener, peer, cgroup"),
    ] {
        let error = parse(&args).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn the_help_names_the_default_path_of_the_socket() {
    for command in ["status", "list", "kill", "report"] {
        let help = Cli::command().find_subcommand_mut(command).unwrap().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&format!("[default: {SOCKET}]")), "{help}");
    }
}

#[test]
fn proposed_commands_have_the_given_socket_or_a_label_of_it() {
    let shown = |args: &[&str], is_redacted| {
        let cli = Cli::try_parse_from([&["closewait", "report"], args].concat()).unwrap();
        let Command::Report(report) = cli.into_command() else { unreachable!() };
        report.asked.shown_socket(is_redacted).map(Path::to_owned)
    };
    assert_eq!(shown(&[], true), None);
    assert_eq!(shown(&["--socket", "/home/me/a.sock"], false), Some("/home/me/a.sock".into()));
    assert_eq!(shown(&["--socket", "/home/me/a.sock"], true), Some("PATH".into()));
}

#[test]
fn an_empty_name_is_no_filter_that_fits_everything() {
    for name in ["", "a,"] {
        let error = Cli::try_parse_from(["closewait", "kill", "--yes", "--cgroup", name]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "an unset variable of a shell: {error}");
    }
}

#[test]
fn a_limit_of_connections_has_a_port() {
    assert_eq!(connection_limit("8080=200"), Ok((8080, 200)));
    for bad in ["8080", "=200", "0=1", "8080=0", "8080=x", "70000=1"] {
        assert!(connection_limit(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_size_may_have_a_suffix() {
    for (text, bytes) in [("65536", 65_536), ("64k", 65_536), ("64K", 65_536), ("2M", 2 << 20), ("3g", 3 << 30)] {
        assert_eq!(record_max(text), Ok(bytes));
    }
    for bad in ["", "k", "1k5", "+1M", "1.5M", "64KiB", "64 K", "99999999999G", "\u{661}M"] {
        assert!(record_max(bad).is_err_and(|error| error.contains("1048576, 1024K or 1M")), "{bad}");
    }
    assert!(record_max("1k").is_err_and(|error| error.contains("65536 (64K)")));
    let Command::Run(run) = Cli::try_parse_from(["closewait", "run"]).unwrap().into_command() else { unreachable!() };
    assert_eq!(run.record_max, 64 << 20);
}

#[test]
fn a_speed_is_above_zero_or_the_most() {
    assert_eq!((speed("max"), speed("0.5")), (Ok(Speed::Max), Ok(Speed::Times(0.5))));
    for bad in ["0", "-1", "inf", "NaN", "fast", ""] {
        assert!(speed(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_ring_buffer_is_a_power_of_two() {
    assert_eq!((ring_bytes("4096"), ring_bytes("4K"), ring_bytes("1g")), (Ok(4096), Ok(4096), Ok(1 << 30)));
    for bad in ["0", "4097", "2048", "-1", "4294967296", "x"] {
        assert!(ring_bytes(bad).is_err(), "{bad}");
    }
}
