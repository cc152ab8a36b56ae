//! Expressions of PromQL, checked against the table of metrics.

use std::collections::{BTreeMap, BTreeSet};

use closewait::metrics::table::{CLASS, MetricKind, RESOURCE, SEVERITY, TABLE};
use closewait_engine::{model::Class, snapshot::urgency::Severity};
use promql_parser::{
    label::{MatchOp, Matcher},
    parser::{self, AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorMatchCardinality, VectorSelector},
};

/// Labels that Prometheus adds to every series of a target.
const OF_TARGETS: [&str; 2] = ["instance", "job"];
/// Functions that make labels of their own: what they make is not checked, so they are not allowed.
const MAKE_LABELS: [&str; 3] = ["label_join", "label_replace", "info"];
/// Mark behind the name of a native histogram until a function makes numbers of it.
const NATIVE: &str = " as a histogram";

/// Names of labels.
type Labels = BTreeSet<String>;

/// Facts about a valid expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Names of its metrics.
    pub(crate) metrics: BTreeSet<String>,
    /// Labels that its result may have; `None` for a number.
    pub(crate) labels: Option<Labels>,
}

/// Checks that an expression is valid, and uses only metrics that exist, with their labels.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn check(expression: &str) -> Result<Checked, String> {
    let parsed = parser::parse(expression).map_err(|error| format!("{expression}: {error}"))?;
    let mut metrics = BTreeSet::new();
    let labels = labels(&parsed, &mut metrics).map_err(|error| format!("{expression}: {error}"))?;
    match metrics.iter().find_map(|name| name.strip_suffix(NATIVE)) {
        Some(name) => Err(format!("{expression}: {name} is a native histogram, which needs a function for histograms")),
        None => Ok(Checked { metrics, labels }),
    }
}

/// Returns the labels of all series by name of the metric, as queries name it.
fn vocabulary() -> BTreeMap<String, Labels> {
    let mut vocabulary = BTreeMap::from([("up".to_owned(), of_target([]))]);
    for metric in TABLE {
        let labels = || metric.labels.iter().map(|label| label.name);
        let name = metric.full_name();
        if metric.kind == MetricKind::Histogram {
            vocabulary.insert(format!("{name}_bucket"), of_target(labels().chain(["le"])));
            // Without a suffix: a native histogram.
            vocabulary.insert(name.clone(), of_target(labels()));
            vocabulary.extend(["count", "sum"].map(|suffix| (format!("{name}_{suffix}"), of_target(labels()))));
        } else {
            vocabulary.insert(name, of_target(labels()));
        }
    }
    vocabulary
}

fn of_target<'a>(labels: impl IntoIterator<Item = &'a str>) -> Labels {
    labels.into_iter().chain(OF_TARGETS).map(str::to_owned).collect()
}

/// Returns the labels of the result of an expression; `None` for a number or a text.
fn labels(expr: &Expr, metrics: &mut BTreeSet<String>) -> Result<Option<Labels>, String> {
    match expr {
        Expr::Aggregate(aggregate) => aggregated(aggregate, metrics),
        Expr::Unary(unary) => labels(&unary.expr, metrics),
        Expr::Binary(binary) => combined(binary, metrics),
        Expr::Paren(paren) => labels(&paren.expr, metrics),
        Expr::Subquery(subquery) => labels(&subquery.expr, metrics),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(None),
        Expr::VectorSelector(selector) => selected(selector, metrics).map(Some),
        Expr::MatrixSelector(matrix) => selected(&matrix.vs, metrics).map(Some),
        Expr::Call(call) => called(call, metrics),
        Expr::Extension(_) => Err("the parser makes no extensions".to_owned()),
    }
}

fn selected(selector: &VectorSelector, metrics: &mut BTreeSet<String>) -> Result<Labels, String> {
    let name = selector.name.as_deref().ok_or("a selector without the name of a metric")?;
    let labels = vocabulary().remove(name).ok_or_else(|| format!("the agent exports no {name}"))?;
    for matcher in selector.matchers.matchers.iter().chain(selector.matchers.or_matchers.iter().flatten()) {
        known(&matcher.name, &labels, name)?;
        has_values(matcher)?;
    }
    let is_native = TABLE.iter().any(|metric| metric.kind == MetricKind::Histogram && metric.full_name() == name);
    metrics.insert(name.to_owned() + if is_native { NATIVE } else { "" });
    Ok(labels)
}

fn known(label: &str, labels: &Labels, of: &str) -> Result<(), String> {
    if labels.contains(label) { Ok(()) } else { Err(format!("{of} has no label {label}")) }
}

/// Checks the values of labels that have a fixed set of them: a comparison with another value never matches.
fn has_values(matcher: &Matcher) -> Result<(), String> {
    let values: Vec<&str> = match matcher.name.as_str() {
        name if name == CLASS.name => Class::ALL.iter().map(|class| class.name()).collect(),
        name if name == SEVERITY.name => Severity::ALL.iter().map(|severity| severity.name()).collect(),
        name if name == RESOURCE.name => vec!["fds", "backlog", "limit"],
        _ => return Ok(()),
    };
    let is_pattern = matches!(matcher.op, MatchOp::Re(_) | MatchOp::NotRe(_));
    let mut compared = matcher.value.split(|one| is_pattern && one == '|');
    match compared.find(|value| !values.contains(value)) {
        Some(value) => Err(format!("{} is never {value:?}", matcher.name)),
        None => Ok(()),
    }
}

fn aggregated(aggregate: &AggregateExpr, metrics: &mut BTreeSet<String>) -> Result<Option<Labels>, String> {
    if let Some(param) = &aggregate.param {
        labels(param, metrics)?;
    }
    let of = labels(&aggregate.expr, metrics)?.ok_or("an aggregation of a number")?;
    let selects = ["topk", "bottomk", "limitk", "limit_ratio"].contains(&aggregate.op.to_string().as_str());
    let kept = match &aggregate.modifier {
        Some(LabelModifier::Include(named)) => {
            named.labels.iter().try_for_each(|label| known(label, &of, "the aggregated expression"))?;
            named.labels.iter().cloned().collect()
        }
        Some(LabelModifier::Exclude(named)) => {
            named.labels.iter().try_for_each(|label| known(label, &of, "the aggregated expression"))?;
            of.iter().filter(|label| !named.labels.contains(label)).cloned().collect()
        }
        None => Labels::new(),
    };
    Ok(Some(if selects { of } else { kept }))
}

fn combined(binary: &BinaryExpr, metrics: &mut BTreeSet<String>) -> Result<Option<Labels>, String> {
    let (left, right) = (labels(&binary.lhs, metrics)?, labels(&binary.rhs, metrics)?);
    let (Some(left), Some(right)) = (&left, &right) else { return Ok(left.or(right)) };
    let modifier = binary.modifier.as_ref();
    let Some(matching) = modifier.and_then(|modifier| modifier.matching.as_ref()) else {
        // Without `on`, series of different labels never match.
        let is_set = modifier.is_some_and(|modifier| modifier.card == VectorMatchCardinality::ManyToMany);
        return if left == right || is_set {
            Ok(Some(left.clone()))
        } else {
            Err(format!("both sides never match: {left:?} and {right:?}"))
        };
    };
    let (LabelModifier::Include(named) | LabelModifier::Exclude(named)) = matching;
    for label in &named.labels {
        if matches!(matching, LabelModifier::Include(_)) || !right.contains(label) {
            known(label, left, "the left side")?;
        }
        if matches!(matching, LabelModifier::Include(_)) || !left.contains(label) {
            known(label, right, "the right side")?;
        }
    }
    Ok(Some(match modifier.map(|modifier| &modifier.card) {
        Some(VectorMatchCardinality::ManyToOne(more)) => left.iter().chain(&more.labels).cloned().collect(),
        Some(VectorMatchCardinality::OneToMany(more)) => right.iter().chain(&more.labels).cloned().collect(),
        Some(VectorMatchCardinality::ManyToMany) | None => left.clone(),
        Some(VectorMatchCardinality::OneToOne) => match matching {
            LabelModifier::Include(named) => named.labels.iter().cloned().collect(),
            LabelModifier::Exclude(named) => {
                left.iter().filter(|label| !named.labels.contains(label)).cloned().collect()
            }
        },
    }))
}

fn called(call: &Call, metrics: &mut BTreeSet<String>) -> Result<Option<Labels>, String> {
    let name = call.func.name;
    if MAKE_LABELS.contains(&name) {
        return Err(format!("{name} is not allowed here"));
    }
    let (mut of_vector, mut used) = (None, BTreeSet::new());
    for argument in &call.args.args {
        let found = labels(argument, &mut used)?;
        of_vector = of_vector.or(found);
    }
    let has_natives = used.iter().any(|name| name.ends_with(NATIVE));
    let is_of_histograms = name.starts_with("histogram_");
    metrics.extend(used.into_iter().map(|name| match name.strip_suffix(NATIVE) {
        Some(native) if is_of_histograms => native.to_owned(),
        _ => name,
    }));
    if is_of_histograms && !has_natives {
        if name != "histogram_quantile" {
            return Err(format!("{name} without a native histogram"));
        }
        let of = of_vector.as_mut().ok_or("histogram_quantile of a number")?;
        return if of.remove("le") { Ok(of_vector) } else { Err("histogram_quantile without the label le".to_owned()) };
    }
    // Those of the absent series depend on the matchers.
    Ok(if name.starts_with("absent") { Some(Labels::new()) } else { of_vector })
}

#[test]
fn valid_expressions_have_metrics_and_labels() {
    for (expression, metrics, labels) in [
        ("closewait_sockets", "closewait_sockets", Some("instance job state")),
        ("sum by (service) (closewait_stuck_sockets{role=\"server\"}) > 0", "closewait_stuck_sockets", Some("service")),
        ("sum without (stage) (rate(closewait_dropped_total[5m]))", "closewait_dropped_total", Some("instance job")),
        ("topk(3, closewait_sockets)", "closewait_sockets", Some("instance job state")),
        (
            "histogram_quantile(0.9, sum by (le) (rate(closewait_dwell_seconds_bucket[5m])))",
            "closewait_dwell_seconds_bucket",
            Some(""),
        ),
        (
            "histogram_quantile(0.9, sum by (instance) (rate(closewait_dwell_seconds[5m])))",
            "closewait_dwell_seconds",
            Some("instance"),
        ),
        ("histogram_count(closewait_dwell_seconds)", "closewait_dwell_seconds", Some("instance job")),
        ("time() - closewait_sockets", "closewait_sockets", Some("instance job state")),
        ("absent(up{job=\"closewait\"})", "up", Some("")),
        ("closewait_build_info * on (instance) group_left (state) closewait_sockets", "", None),
        ("1 + 1", "", None),
    ] {
        let checked = check(expression).unwrap();
        if let Some(labels) = labels {
            assert_eq!(Vec::from_iter(checked.metrics), [metrics], "{expression}");
            assert_eq!(Vec::from_iter(checked.labels.unwrap()).join(" "), labels, "{expression}");
        }
    }
}

#[test]
fn wrong_expressions_are_refused() {
    for (expression, problem) in [
        ("closewait_sockets{", "unexpected end of input"),
        ("closewait_socket", "exports no closewait_socket"),
        ("closewait_entered", "exports no closewait_entered"),
        ("closewait_dwell", "exports no closewait_dwell"),
        ("rate(closewait_dwell_seconds[5m])", "needs a function for histograms"),
        ("histogram_quantile(0.9, sum by (le) (rate(closewait_dwell_seconds[5m])))", "has no label le"),
        ("histogram_count(closewait_dwell_seconds_bucket)", "histogram_count without a native histogram"),
        ("{service=\"a\"}", "without the name"),
        ("closewait_sockets{service=\"a\"}", "closewait_sockets has no label service"),
        ("closewait_incidents{severity=\"fatal\"}", "severity is never \"fatal\""),
        ("closewait_incidents{class=~\"hung|leek\"}", "class is never \"leek\""),
        ("sum by (le) (closewait_sockets)", "has no label le"),
        ("sum without (service) (closewait_sockets)", "has no label service"),
        ("closewait_sockets > on (service) closewait_stuck_sockets", "the left side has no label service"),
        ("closewait_sockets > closewait_agent_map_limit_sockets", "never match"),
        ("histogram_quantile(0.9, rate(closewait_dwell_seconds_count[5m]))", "without the label le"),
        ("label_replace(closewait_sockets, \"a\", \"b\", \"c\", \"d\")", "label_replace is not allowed"),
    ] {
        let error = check(expression).expect_err(expression);
        assert!(error.contains(problem), "{error}");
    }
}
