//! Settings of the export: `--otlp-endpoint`, and the environment variables of OpenTelemetry ("OpenTelemetry Protocol Exporter" and
//! "Environment Variable Specification" of its specification).
//!
//! Values may contain secrets, so no message quotes them.

use std::{ffi::OsString, fmt, str::FromStr, time::Duration};

use hyper::{
    Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use thiserror::Error;

/// Default time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Default interval between two exports of metrics.
const INTERVAL: Duration = Duration::from_secs(60);
/// Least time limit and interval that a variable can set.
const MIN_DURATION: Duration = Duration::from_millis(100);
/// Largest time limit and interval that a variable can set.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
/// Default port of OTLP over HTTP.
const DEFAULT_PORT: u16 = 80;
/// Headers that the exporter sets itself.
const OWN_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
];

/// Variable or flag that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{name} cannot be used: {why}\nhint: {hint}")]
pub struct OtlpSettingsError {
    name: String,
    why: String,
    hint: &'static str,
}

/// URL of a collector: `http` without credentials, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpUrl {
    /// Host name or IP address, an IPv6 address without brackets.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// Host and port as in the URL, for the header `Host`.
    pub(super) authority: String,
    /// Path, beginning with a slash.
    pub(super) path: String,
}

impl FromStr for OtlpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a URL such as http://127.0.0.1:4318";
        let uri: Uri = text.trim().parse().map_err(|_error| FORM.to_owned())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("https is not supported: run a collector on this host, which forwards over TLS, and \
                            write http://127.0.0.1:4318"
                    .to_owned());
            }
            _ => return Err(FORM.to_owned()),
        }
        let authority = uri.authority().ok_or_else(|| FORM.to_owned())?;
        if authority.as_str().contains('@') {
            return Err("a URL must not have a user name or password: set OTEL_EXPORTER_OTLP_HEADERS".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("a URL must not have a query or a fragment: set OTEL_EXPORTER_OTLP_HEADERS".to_owned());
        }
        let host = authority.host();
        // `Authority::port` takes a port over 65535 for none.
        if authority.as_str() != host && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(FORM.to_owned());
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(FORM.to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(DEFAULT_PORT),
            authority: authority.as_str().to_owned(),
            path: uri.path().to_owned(),
        })
    }
}

impl OtlpUrl {
    /// Returns the URL of a signal below this one.
    fn below(&self, signal: Signal) -> Self {
        let path = format!("{}/v1/{}", self.path.trim_end_matches('/'), signal.path());
        Self { path, ..self.clone() }
    }
}

impl fmt::Display for OtlpUrl {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "http://{}{}", self.authority, self.path)
    }
}

/// Kind of exported data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Logs,
}

impl Signal {
    /// Returns the name in a URL and in messages.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// Returns the name of its items in messages.
    pub(super) const fn items(self) -> &'static str {
        match self {
            Self::Metrics => "data points",
            Self::Logs => "events",
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

/// Headers of the user. They may hold secrets: `Debug` shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct SecretHeaders(pub(super) HeaderMap);

/// Number of consecutive letters and digits of a header's value that no message may have.
const SECRET_PIECE: usize = 8;

impl SecretHeaders {
    /// Whether a text has a part of a header's value, also percent-encoded, in another case or with other punctuation.
    pub(super) fn are_in(&self, text: &str) -> bool {
        let plain =
            |text: &str| text.chars().filter(|one| one.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        let texts: [Vec<char>; 2] = [plain(text), plain(&decoded(text).unwrap_or_default())];
        self.0.values().any(|value| {
            let value: Vec<char> = plain(&String::from_utf8_lossy(value.as_bytes()));
            // A short value would be in any text.
            value
                .windows(SECRET_PIECE)
                .any(|piece| texts.iter().any(|text| text.windows(SECRET_PIECE).any(|part| part == piece)))
        })
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "SecretHeaders({})", self.0.len())
    }
}

/// Settings of one signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignalSettings {
    pub(super) signal: Signal,
    pub(super) url: OtlpUrl,
    pub(super) headers: SecretHeaders,
    /// Time limit of a request, from the look-up of the host to the end of the response.
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
}

/// Settings of the export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    pub(super) metrics: Option<SignalSettings>,
    pub(super) logs: Option<SignalSettings>,
    /// Interval between two exports of metrics.
    pub(super) interval: Duration,
    /// Attributes of the resource that the user sets, the last one of a name counts.
    pub(super) attributes: Vec<(String, String)>,
}

impl OtlpSettings {
    /// Reads the settings; `None` if neither the flag nor a variable names a collector. `flag` is the value of `--otlp-endpoint`,
    /// which counts for metrics and logs instead of the variables with URLs.
    ///
    /// # Errors
    ///
    /// If a variable has a value that cannot be used.
    pub fn read(
        flag: Option<&OtlpUrl>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, OtlpSettingsError> {
        let variables = Variables(&variable);
        if flag.is_none() && variables.text("OTEL_SDK_DISABLED")?.is_some_and(|text| text.eq_ignore_ascii_case("true"))
        {
            return Ok(None);
        }
        let metrics = variables.signal(Signal::Metrics, flag)?;
        let logs = variables.signal(Signal::Logs, flag)?;
        if metrics.is_none() && logs.is_none() {
            return Ok(None);
        }
        let interval = variables.millis("OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(INTERVAL);
        let mut attributes = variables.pairs("OTEL_RESOURCE_ATTRIBUTES")?;
        if let Some(service) = variables.text("OTEL_SERVICE_NAME")? {
            attributes.push(("service.name".to_owned(), service));
        }
        Ok(Some(Self { metrics, logs, interval, attributes }))
    }
}

/// Environment variables. One without a value counts as unset.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, OtlpSettingsError> {
        let Some(value) = (self.0)(name) else { return Ok(None) };
        let value = value.into_string().map_err(|_value| error(name, "it is not UTF-8", "write it in UTF-8"))?;
        let value = value.trim();
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }

    /// Returns the name and the value of the variable of a signal, or else of that for all signals.
    fn of_signal(&self, signal: Signal, what: &str) -> Result<Option<(String, String)>, OtlpSettingsError> {
        for infix in [format!("{}_", signal.variable()), String::new()] {
            let name = format!("OTEL_EXPORTER_OTLP_{infix}{what}");
            if let Some(value) = self.text(&name)? {
                return Ok(Some((name, value)));
            }
        }
        Ok(None)
    }

    fn signal(&self, signal: Signal, flag: Option<&OtlpUrl>) -> Result<Option<SignalSettings>, OtlpSettingsError> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.variable());
        if self.text(&exporter)?.is_some_and(|exporter| exporter == "none") {
            return Ok(None);
        }
        let Some(url) = self.url(signal, flag)? else { return Ok(None) };
        if let Some((name, value)) = self.of_signal(signal, "PROTOCOL")?
            && value != "http/protobuf"
        {
            return Err(error(
                &name,
                "only http/protobuf is supported",
                "unset it, and name the collector's HTTP port, 4318",
            ));
        }
        let gzip = match self.of_signal(signal, "COMPRESSION")? {
            None => false,
            Some((_, value)) if value == "none" => false,
            Some((_, value)) if value == "gzip" => true,
            Some((name, _)) => return Err(error(&name, "the method is unknown", "write gzip or none")),
        };
        let timeout = match self.of_signal(signal, "TIMEOUT")? {
            Some((name, value)) => millis(&name, &value)?,
            None => TIMEOUT,
        };
        let headers = match self.of_signal(signal, "HEADERS")? {
            Some((name, value)) => headers(&name, &value)?,
            None => SecretHeaders::default(),
        };
        Ok(Some(SignalSettings { signal, url, headers, timeout, gzip }))
    }

    fn url(&self, signal: Signal, flag: Option<&OtlpUrl>) -> Result<Option<OtlpUrl>, OtlpSettingsError> {
        if let Some(flag) = flag {
            return Ok(Some(flag.below(signal)));
        }
        let Some((name, value)) = self.of_signal(signal, "ENDPOINT")? else { return Ok(None) };
        let url: OtlpUrl = value.parse().map_err(|why| OtlpSettingsError {
            name: name.clone(),
            why,
            hint: "a collector on this host usually has http://127.0.0.1:4318",
        })?;
        // That of a signal is used as it is.
        Ok(Some(if name == "OTEL_EXPORTER_OTLP_ENDPOINT" { url.below(signal) } else { url }))
    }

    fn millis(&self, name: &str) -> Result<Option<Duration>, OtlpSettingsError> {
        self.text(name)?.map(|value| millis(name, &value)).transpose()
    }

    fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, OtlpSettingsError> {
        self.text(name)?.map_or(Ok(Vec::new()), |value| pairs(name, &value))
    }
}

fn error(name: &str, why: &str, hint: &'static str) -> OtlpSettingsError {
    OtlpSettingsError { name: name.to_owned(), why: why.to_owned(), hint }
}

fn millis(name: &str, value: &str) -> Result<Duration, OtlpSettingsError> {
    let found = value.parse().ok().map(Duration::from_millis);
    found.filter(|found| (MIN_DURATION..=MAX_DURATION).contains(found)).ok_or_else(|| {
        error(
            name,
            "it is not a number of milliseconds from 100 to 86400000",
            "write, for example, 10000 for ten seconds",
        )
    })
}

/// Parses `NAME=VALUE,NAME=VALUE`, in which names and values are percent-encoded.
fn pairs(name: &str, value: &str) -> Result<Vec<(String, String)>, OtlpSettingsError> {
    let malformed = || {
        let hint = "write NAME=VALUE,NAME=VALUE, with %2C for a comma in a value";
        error(name, "it is not a list of names and values (the value is not shown: it may be secret)", hint)
    };
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (name, value) = item.split_once('=')?;
        let (name, value) = (decoded(name.trim())?, decoded(value.trim())?);
        (!name.is_empty()).then_some((name, value))
    };
    items.map(|item| pair(item).ok_or_else(malformed)).collect()
}

/// Decodes percent-encoded text; `None` if it is malformed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

fn headers(variable: &str, value: &str) -> Result<SecretHeaders, OtlpSettingsError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(variable, value)? {
        let malformed = || {
            let hint = "names have letters, digits and -, and values no control characters";
            error(variable, "a header is malformed (it is not shown: it may be secret)", hint)
        };
        let name: HeaderName = name.parse().map_err(|_error| malformed())?;
        if OWN_HEADERS.contains(&name) {
            let why = format!("the agent sets the header {name} itself");
            return Err(error(variable, &why, "leave it out"));
        }
        let mut value = HeaderValue::from_str(&value).map_err(|_error| malformed())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(SecretHeaders(headers))
}

#[cfg(test)]
mod tests;
