use super::*;

fn read(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<OtlpSettings>, String> {
    let flag = flag.map(|flag| flag.parse::<OtlpUrl>().unwrap());
    let variable = |name: &str| {
        let full = |key: &str| format!("OTEL_{key}") == name;
        variables.iter().find(|(key, _)| full(key)).map(|(_, value)| OsString::from(value))
    };
    OtlpSettings::read(flag.as_ref(), variable).map_err(|error| error.to_string())
}

fn urls(settings: &OtlpSettings) -> [Option<String>; 2] {
    [&settings.metrics, &settings.logs].map(|signal| signal.as_ref().map(|signal| signal.url.to_string()))
}

#[test]
fn nothing_is_exported_unless_someone_asks() {
    assert_eq!(read(None, &[]), Ok(None));
    assert_eq!(read(None, &[("EXPORTER_OTLP_ENDPOINT", " "), ("EXPORTER_OTLP_HEADERS", "a=b")]), Ok(None));
    assert_eq!(read(None, &[("EXPORTER_OTLP_ENDPOINT", "http://h"), ("SDK_DISABLED", "TRUE")]), Ok(None));
    let none = [("EXPORTER_OTLP_ENDPOINT", "http://h"), ("METRICS_EXPORTER", "none"), ("LOGS_EXPORTER", "none")];
    assert_eq!(read(None, &none), Ok(None));
}

#[test]
fn paths_are_appended_except_to_the_url_of_one_signal() {
    let some = |url: &str| Some(url.to_owned());
    let base = read(None, &[("EXPORTER_OTLP_ENDPOINT", "http://[::1]:4318/otlp/")]).unwrap().unwrap();
    assert_eq!(urls(&base), [some("http://[::1]:4318/otlp/v1/metrics"), some("http://[::1]:4318/otlp/v1/logs")]);
    assert_eq!(base.logs.as_ref().unwrap().url.host, "::1");
    let one = read(None, &[("EXPORTER_OTLP_LOGS_ENDPOINT", "http://c/raw")]).unwrap().unwrap();
    assert_eq!(urls(&one), [None, some("http://c/raw")]);
    assert_eq!(one.logs.unwrap().url.port, 80);
    let flag =
        read(Some("http://127.0.0.1:4318"), &[("EXPORTER_OTLP_LOGS_ENDPOINT", "http://c/raw")]).unwrap().unwrap();
    let expected = ["http://127.0.0.1:4318/v1/metrics", "http://127.0.0.1:4318/v1/logs"].map(some);
    assert_eq!(urls(&flag), expected, "the flag counts for both");
}

#[test]
fn settings_of_a_signal_come_before_those_of_all() {
    let variables = [
        ("EXPORTER_OTLP_TIMEOUT", "2000"),
        ("EXPORTER_OTLP_LOGS_TIMEOUT", "3000"),
        ("EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        ("EXPORTER_OTLP_HEADERS", "Authorization=Basic%20c2VjcmV0, x-scope=a%2Cb"),
        ("METRIC_EXPORT_INTERVAL", "15000"),
        ("RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=x"),
        ("SERVICE_NAME", "cw"),
    ];
    let settings = read(Some("http://h:1"), &variables).unwrap().unwrap();
    let (metrics, logs) = (settings.metrics.clone().unwrap(), settings.logs.clone().unwrap());
    assert_eq!((metrics.timeout, logs.timeout), (Duration::from_secs(2), Duration::from_secs(3)));
    assert_eq!((metrics.gzip, logs.gzip, settings.interval), (false, true, Duration::from_secs(15)));
    assert_eq!(logs.headers.0["authorization"], "Basic c2VjcmV0");
    assert_eq!(logs.headers.0["x-scope"], "a,b");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [pair("deployment.environment.name", "prod"), pair("service.name", "x"), pair("service.name", "cw")];
    assert_eq!(settings.attributes, expected);
    assert!(!format!("{settings:?}").contains("c2VjcmV0"), "secrets are not shown");
}

#[test]
fn a_bad_value_is_an_error_that_does_not_show_it() {
    for (name, value, why) in [
        ("EXPORTER_OTLP_ENDPOINT", "https://SECRET", "https is not supported"),
        ("EXPORTER_OTLP_ENDPOINT", "http://user:SECRET@h", "user name or password"),
        ("EXPORTER_OTLP_ENDPOINT", "http://h/?key=SECRET", "a query"),
        ("EXPORTER_OTLP_ENDPOINT", "SECRET", "write a URL"),
        ("EXPORTER_OTLP_ENDPOINT", "http://SECRET:99999", "write a URL"),
        ("EXPORTER_OTLP_ENDPOINT", "http://SECRET:0", "write a URL"),
        ("EXPORTER_OTLP_ENDPOINT", "unix:///run/SECRET", "write a URL"),
        ("EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf"),
        ("EXPORTER_OTLP_LOGS_COMPRESSION", "zstd", "unknown"),
        ("EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("METRIC_EXPORT_INTERVAL", "0", "milliseconds"),
        ("EXPORTER_OTLP_HEADERS", "SECRET", "list of names and values"),
        ("EXPORTER_OTLP_HEADERS", "a=SECRET%0d%0ab: c", "malformed"),
        ("EXPORTER_OTLP_HEADERS", "a=SECRET%4", "list of names and values"),
        ("EXPORTER_OTLP_HEADERS", "a b=SECRET", "malformed"),
        ("EXPORTER_OTLP_METRICS_HEADERS", "Host=SECRET", "sets the header host itself"),
        ("RESOURCE_ATTRIBUTES", "=SECRET", "list of names and values"),
    ] {
        let other = ("EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4318/v1/metrics");
        let error = read(None, &[(name, value), other, ("EXPORTER_OTLP_LOGS_ENDPOINT", other.1)]);
        let error = match error {
            Err(error) => error,
            // The URLs of the signals come first.
            Ok(_) => read(None, &[(name, value)]).unwrap_err(),
        };
        assert!(error.starts_with(&format!("OTEL_{name} cannot be used: ")), "{error}");
        assert!(error.contains(why) && error.contains("\nhint: "), "{name}={value}: {error}");
        assert!(!error.contains("SECRET"), "{error}");
    }
}
