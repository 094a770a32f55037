//! Families of metrics, and the text that Prometheus reads (exposition format 0.0.4).
//!
//! Every series is made together with its family, so that a first scrape shows all of them at 0, none comes into being
//! later, and whoever counts holds its handle: counting is an atomic addition, without a look-up. What they mean is
//! decided by whoever declares them.

pub use prometheus::{Histogram, IntCounter, IntGauge};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TEXT_FORMAT,
    TextEncoder,
};

/// The content type of the text.
pub const METRICS_TYPE: &str = TEXT_FORMAT;

/// A family was declared wrongly: twice, or with a name that is none. A mistake of ours.
#[derive(Debug, thiserror::Error)]
#[error("a metric is declared wrongly")]
pub struct BadMetric(#[from] prometheus::Error);

/// Families that are shown together.
#[derive(Debug, Default)]
pub struct Families(Registry);

impl Families {
    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, BadMetric> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    /// A counter for each combination of label values, in their order.
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = [&'static str; N]>,
    ) -> Result<Vec<IntCounter>, BadMetric> {
        let family = IntCounterVec::new(Opts::new(name, help), &labels)?;
        self.0.register(Box::new(family.clone()))?;
        let handles = series
            .into_iter()
            .map(|values| family.get_metric_with_label_values(&values));
        Ok(handles.collect::<Result<_, _>>()?)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, BadMetric> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    /// A gauge that is always 1 and says everything by its labels.
    pub fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), BadMetric> {
        let labels = labels.iter().map(|(label, value)| (*label, *value));
        let opts = labels.fold(Opts::new(name, help), |opts, (label, value)| {
            opts.const_label(label, value)
        });
        let gauge = IntGauge::with_opts(opts)?;
        gauge.set(1);
        Ok(self.0.register(Box::new(gauge))?)
    }

    /// A gauge for each value of a label, in their order.
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Result<Vec<IntGauge>, BadMetric> {
        let family = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        self.0.register(Box::new(family.clone()))?;
        let handles = values
            .into_iter()
            .map(|value| family.get_metric_with_label_values(&[value]));
        Ok(handles.collect::<Result<_, _>>()?)
    }

    /// A histogram of seconds for each value of a label, in their order.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Result<Vec<Histogram>, BadMetric> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let family = HistogramVec::new(opts, &[label])?;
        self.0.register(Box::new(family.clone()))?;
        let handles = values
            .into_iter()
            .map(|value| family.get_metric_with_label_values(&[value]));
        Ok(handles.collect::<Result<_, _>>()?)
    }

    /// Appends all of them, in the order of their names.
    pub fn write(&self, text: &mut String) -> Result<(), BadMetric> {
        Ok(TextEncoder::new().encode_utf8(&self.0.gather(), text)?)
    }
}

/// Lets a counter show what is counted elsewhere. Not for two threads at once.
pub fn show(counter: &IntCounter, count: u64) {
    counter.reset();
    counter.inc_by(count);
}

/// How many threads this process has, where the system says it.
pub fn threads() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in brackets and may hold anything; proc_pid_stat(5) counts on from there.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(17)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_before_it_counts() {
        let families = Families::default();
        let series = [["get", "200"], ["get", "404"]];
        let counters = families
            .counters("x_requests_total", "Requests.", ["route", "status"], series)
            .unwrap();
        let gauges = families.gauges("x_entries", "Entries.", "kind", ["trusted", "isolated"]);
        gauges.unwrap()[0].set(7);
        counters[1].inc();
        let mut text = String::new();
        families.write(&mut text).unwrap();
        assert_eq!(
            text,
            "# HELP x_entries Entries.\n# TYPE x_entries gauge\n\
             x_entries{kind=\"isolated\"} 0\nx_entries{kind=\"trusted\"} 7\n\
             # HELP x_requests_total Requests.\n# TYPE x_requests_total counter\n\
             x_requests_total{route=\"get\",status=\"200\"} 0\n\
             x_requests_total{route=\"get\",status=\"404\"} 1\n"
        );
    }

    #[test]
    fn a_family_cannot_be_declared_twice() {
        let families = Families::default();
        assert!(families.counter("x_total", "X.").is_ok());
        assert!(families.gauge("x_total", "X.").is_err());
    }

    #[test]
    fn this_process_has_threads() {
        let before = threads().expect("a number");
        std::thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            // Other tests of this process start and end threads, too.
            assert!(threads().expect("a number") >= 2, "{before}");
            drop(done);
        });
    }
}
