//! Claims about a group, as each output makes them.

use serde_json::Value;

use crate::net::Namespace;

/// Claim of an output about a group. An output that does not have a member has `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Claim {
    pub(super) class: Option<String>,
    pub(super) certainty: Option<String>,
    pub(super) count: Option<u64>,
    /// Incident; `Some(None)` for a group without one.
    pub(super) id: Option<Option<String>>,
    pub(super) severity: Option<String>,
    /// Summary, without the numbers in `moving`.
    pub(super) summary: Option<String>,
    pub(super) moving: Option<Moving>,
    pub(super) command: Option<String>,
    /// Class as people read it, in tables and lines.
    pub(super) label: Option<String>,
}

/// Numbers of a summary that also change while no socket enters or leaves: rate, and seconds until a limit is reached. They are equal if
/// they can be those of two moments of one comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct Moving {
    rate: Option<f64>,
    seconds: Option<f64>,
}

impl PartialEq for Moving {
    fn eq(&self, other: &Self) -> bool {
        let close = |one: Option<f64>, other: Option<f64>, slack: f64| match (one, other) {
            (Some(one), Some(other)) => (one - other).abs() <= slack + one.max(other) / 10.0,
            _ => one.is_none() == other.is_none(),
        };
        close(self.rate, other.rate, 0.1) && close(self.seconds, other.seconds, 5.0)
    }
}

/// Splits a summary into its words and its moving numbers: `hung: api[7] :80, 12 in CLOSE_WAIT, +5.9/s, full in 2m8s`.
fn split(summary: &str) -> (String, Moving) {
    let mut moving = Moving::default();
    let words = summary.split(", ").map(|part| {
        if let Some(rate) = part.strip_prefix('+').and_then(|part| part.strip_suffix("/s")) {
            moving.rate = Some(rate.parse().unwrap_or_else(|error| panic!("{error}: {summary}")));
            "rate"
        } else if let Some((limit, time)) = part.split_once(" in ").filter(|(limit, _)| limit.ends_with("full")) {
            moving.seconds = Some(seconds(time).unwrap_or_else(|| panic!("no duration: {summary}")));
            limit
        } else {
            part
        }
    });
    (words.collect::<Vec<_>>().join(", "), moving)
}

/// Returns the seconds of a duration as people read it: `37s`, `2m8s`, `1h3m`.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim_start_matches('<');
    let mut sum = 0.0;
    for part in text.split_inclusive(char::is_alphabetic) {
        let factor = match part.chars().last()? {
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            _ => return None,
        };
        sum += factor * part.get(..part.len() - 1)?.parse::<f64>().ok()?;
    }
    Some(sum)
}

/// Group that is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) netns: u64,
    pub(super) port: u16,
    /// Whether the port is that of a remote endpoint.
    pub(super) is_client: bool,
}

impl Place {
    pub(super) fn server(ns: &Namespace, port: u16) -> Self {
        Self { netns: ns.inode, port, is_client: false }
    }

    pub(super) fn client(ns: &Namespace, port: u16) -> Self {
        Self { netns: ns.inode, port, is_client: true }
    }

    /// Whether `group` of an object is this one.
    pub(super) fn is(&self, group: &Value) -> bool {
        let port = if self.is_client { &group["remote"]["port"] } else { &group["local_port"] };
        group["netns"] == self.netns && *port == self.port
    }

    /// Whether a socket of this place has this object.
    pub(super) fn has(&self, socket: &Value) -> bool {
        let end = if self.is_client { "remote" } else { "local" };
        let role = if self.is_client { "client" } else { "server" };
        socket["netns"] == self.netns && socket[end]["port"] == self.port && socket["role"] == role
    }

    /// Word that names the place in tables.
    fn word(&self) -> String {
        if self.is_client { format!(">127.0.0.1:{}", self.port) } else { format!(":{}", self.port) }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Claim {
    /// Reads the object of a group or of a `pileup` event, which has all members.
    pub(super) fn of_object(object: &Value) -> Self {
        let verdict = &object["verdict"];
        let (summary, moving) = text(&object["summary"]).map(|summary| split(&summary)).unzip();
        let mut claim = Self {
            class: text(&verdict["class"]),
            certainty: text(&verdict["certainty"]),
            count: object["count"].as_u64(),
            id: Some(text(&object["id"])),
            severity: text(&object["severity"]),
            summary,
            moving,
            command: text(&object["command"]),
            label: None,
        };
        assert!(claim.class.is_some() && claim.count.is_some() && claim.summary.is_some(), "{object}");
        assert!(claim.severity.is_some() && claim.command.is_some(), "{object}");
        claim.label = Some(claim.expected_label());
        claim
    }

    /// Returns the claim that there is no socket.
    pub(super) fn nothing() -> Self {
        Self { count: Some(0), ..Self::default() }
    }

    /// Returns the word for the class in tables, as it follows from class, certainty and severity.
    fn expected_label(&self) -> String {
        let class = self.class.as_deref().expect("a class");
        let doubt = if self.certainty.as_deref() == Some("low") { "?" } else { "" };
        match (self.severity.as_deref(), class) {
            (Some("info"), _) => class.to_owned(),
            (_, "unknown") => "GROWS".to_owned(),
            (_, "never_accepted") => format!("UNACCEPTED{doubt}"),
            _ => format!("{}{doubt}", class.to_uppercase()),
        }
    }

    /// Returns the first contradiction of this claim of `output` to `truth`, a claim with all members.
    pub(super) fn differs(&self, output: &str, truth: &Self) -> Option<String> {
        fn member<T: PartialEq + std::fmt::Debug>(what: &str, own: &Option<T>, truth: &Option<T>) -> Option<String> {
            (own.is_some() && own != truth).then(|| format!("{what}: {own:?}, but {truth:?} in `status`"))
        }
        let first = member("class", &self.class, &truth.class)
            .or_else(|| member("certainty", &self.certainty, &truth.certainty))
            .or_else(|| member("count", &self.count, &truth.count))
            .or_else(|| member("incident", &self.id, &truth.id))
            .or_else(|| member("severity", &self.severity, &truth.severity))
            .or_else(|| member("summary", &self.summary, &truth.summary))
            .or_else(|| member("rate or forecast", &self.moving, &truth.moving))
            .or_else(|| member("command", &self.command, &truth.command))
            .or_else(|| member("label", &self.label, &truth.label));
        first.map(|what| format!("{output}: {what}"))
    }
}

/// Returns the claim of the group among these objects.
pub(super) fn of_groups<'v>(groups: impl IntoIterator<Item = &'v Value>, place: Place) -> Claim {
    let mut found = groups.into_iter().filter(|object| place.is(&object["group"]));
    let claim = found.next().map_or_else(Claim::nothing, Claim::of_object);
    assert!(found.next().is_none(), "{place:?} is there twice");
    claim
}

/// Returns the claim of the sockets in `list --output json`, which have one verdict.
pub(super) fn of_sockets(rows: &[Value], place: Place) -> Claim {
    let own: Vec<&Value> = rows.iter().filter(|row| row["left"].is_null() && place.has(&row["socket"])).collect();
    let verdict = |row: &Value| (text(&row["verdict"]["class"]), text(&row["verdict"]["certainty"]));
    let Some(first) = own.first() else { return Claim::nothing() };
    let (class, certainty) = verdict(first);
    let other = own.iter().find(|row| verdict(row) != (class.clone(), certainty.clone()));
    let verdicts = (&first["verdict"], other.map(|row| &row["verdict"]));
    assert!(other.is_none(), "two verdicts in one group: {verdicts:?}");
    Claim { class, certainty, count: Some(own.len() as u64), ..Claim::default() }
}

/// Returns the claim of a table of sockets, which has only those of the place: `hung medium` at the end of each row.
pub(super) fn of_socket_table(page: &str) -> Claim {
    let mut words = page.split_whitespace();
    let Some(count) = words.next().and_then(|word| word.parse().ok()) else {
        assert!(page.starts_with("no socket"), "{page}");
        return Claim::nothing();
    };
    let heading = page.lines().position(|line| line.starts_with("AGE ")).unwrap_or_else(|| panic!("no table:\n{page}"));
    let rows = page.lines().skip(heading + 1).take_while(|line| !line.is_empty());
    // On a slow guest, ports of clients are used again, and a SYN ends the connection whose descriptor is still open.
    let rows: Vec<&str> = rows.filter(|row| !row.starts_with("gone: ")).collect();
    assert_eq!(rows.len() as u64, count, "{page}");
    let verdict = |row: &str| row.rsplit("  ").next().unwrap_or_default().trim().to_owned();
    let first = verdict(rows[0]);
    assert!(rows.iter().all(|row| verdict(row) == first), "two verdicts in one group:\n{page}");
    let (class, certainty) = first.split_once(' ').unwrap_or((&first, "low"));
    Claim {
        class: Some(class.to_owned()),
        certainty: Some(certainty.to_owned()),
        count: Some(count),
        ..Claim::default()
    }
}

/// Returns the claim of a table of groups, of the line with the calm groups below it, or of a line of `run`.
pub(super) fn of_table(page: &str, place: Place) -> Claim {
    let word = place.word();
    for line in page.lines() {
        if let Some(calm) = line.strip_prefix("also: ") {
            let item = calm.split(", ").find(|item| item.split(' ').any(|one| one == word));
            if let Some([count, label, ..]) = item.map(|item| item.split(' ').collect::<Vec<_>>()).as_deref() {
                return Claim { count: count.parse().ok(), label: Some((*label).to_owned()), ..Claim::default() };
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|one| *one == word);
        let Some(count) = at.and_then(|at| words.get(at + 1)?.parse().ok()) else { continue };
        let label = words.first().map(|label| label.trim_start_matches('▶').to_owned());
        return Claim { count: Some(count), label, ..Claim::default() };
    }
    Claim::nothing()
}

/// Returns the command of the group's block on a page, on a line of its own; `None` without a block.
pub(super) fn block_command(page: &str, place: Place) -> Option<String> {
    let word = place.word();
    let mut lines = page.lines().skip_while(|line| {
        !(line.starts_with(|first: char| first.is_ascii_digit()) && line.split_whitespace().any(|one| one == word))
    });
    lines.next()?;
    lines.find(|line| line.starts_with("     ")).map(|line| line.trim().to_owned())
}

/// Returns the claim of the text of `report`: class, name, place and count begin a paragraph, and a problem has its command on a line of
/// its own.
pub(super) fn of_report(page: &str, place: Place) -> Claim {
    let word = format!("{}:", place.word());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        let (Some(label), Some(_place)) = (words.next(), words.find(|one| *one == word)) else { continue };
        let Some(count) = words.next().and_then(|count| count.parse().ok()) else { continue };
        let mut paragraph = lines.take_while(|line| !line.is_empty()).skip_while(|line| !line.starts_with("NEXT "));
        let command = paragraph.find(|line| line.starts_with("  ") && !line.starts_with("   "));
        let command = command.map(|line| line.trim().to_owned());
        return Claim { count: Some(count), label: Some(label.to_owned()), command, ..Claim::default() };
    }
    Claim::nothing()
}
