//! What Rust asks of lumbre's own Python: every name is spelt here, and a test looks for each.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

// The modules: one that moves is one line here.
const CALLBACK: &str = "lumbre.hooks.callback";
const CONTEXT: &str = "lumbre.engine.context";
const BATCH: &str = "lumbre.data.batch";
const ERRORS: &str = "lumbre.errors";
const FOREIGN: &str = "lumbre.hooks.foreign";
const LOSSES: &str = "lumbre.metrics.losses";
const MEAN: &str = "lumbre.metrics.mean";
const METRIC: &str = "lumbre.metrics.base";
const SETS: &str = "lumbre.metrics.sets";
const NATIVE: &str = "lumbre.metrics.native";
const NOW: &str = "lumbre.state.now";
const OUTPUT: &str = "lumbre.output";
const SCHEDULE: &str = "lumbre.hooks.schedule";
const WARN: &str = "lumbre.warn";

/// Functions and classes of modules: each becomes a function that imports it.
macro_rules! imports {
    ($($module:ident: $name:ident = $text:literal;)+) => {
        $(pub fn $name(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
            py.import(intern!(py, $module))?.getattr(intern!(py, $text))
        })+

        const IMPORTS: &[(&str, &str)] = &[$(($module, $text)),+];
    };
}

imports! {
    CONTEXT: unknown = "unknown";
    CONTEXT: unsettable = "unsettable";
    BATCH: batch_size_of = "batch_size_of";
    LOSSES: losses = "Losses";
    LOSSES: loggable = "loggable";
    LOSSES: numbers_of = "numbers_of";
    OUTPUT: say = "say";
    WARN: warn = "warn";
}

/// Attributes of objects: each becomes a function of its class that gives the interned name.
macro_rules! attributes {
    ($($module:ident $class:ident { $($name:ident = $text:literal),+ $(,)? })+) => {
        $(pub struct $class;

        impl $class {
            $(pub fn $name(py: Python<'_>) -> &Bound<'_, PyString> {
                intern!(py, $text)
            })+
        })+

        const ATTRIBUTES: &[(&str, &str)] =
            &[$($(($module, concat!(stringify!($class), ".", $text))),+),+];
    };
}

attributes! {
    CALLBACK Callback { logs = "logs" }
    CONTEXT Context {
        attend = "_attend",
        batch = "batch",
        batch_size = "batch_size",
        callbacks = "callbacks",
        device = "device",
        first_batch = "_first_batch",
        input = "input",
        loss = "loss",
        may_log = "_may_log",
        pred = "pred",
        target = "target",
        valid_data = "valid_data",
        verbose = "verbose",
    }
    FOREIGN Foreign { lumbre_callback = "__lumbre_callback__" }
    LOSSES Losses { add = "add", retract = "retract", take = "take" }
    MEAN Mean { noted_as = "_noted_as" }
    METRIC Metric {
        compute = "compute",
        direction = "direction",
        is_one_record = "_is_one_record",
        name = "name",
        reset = "reset",
        update = "update",
    }
    SETS TorchMetric { held = "_held" }
    NATIVE Native { retract = "retract" }
}

/// Classes of errors and warnings.
macro_rules! classes {
    ($($name:ident),+ $(,)?) => {
        #[derive(Clone, Copy)]
        pub enum Class { $($name),+ }

        impl Class {
            pub fn find(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
                let name = match self { $(Self::$name => intern!(py, stringify!($name))),+ };
                py.import(intern!(py, ERRORS))?.getattr(name)
            }
        }

        const CLASSES: &[(&str, &str)] = &[$((ERRORS, stringify!($name))),+];
    };
}

classes! {
    ABIError,
    ArgumentError,
    ArgumentTypeError,
    ContextError,
    DTypeError,
    ExtensionError,
    HookError,
    LumbreError,
    LumbreWarning,
    MetricError,
    MetricWarning,
    MonitorError,
    MonitorWarning,
    NonFiniteLossWarning,
    ScheduleError,
    ShapeError,
    ShapeWarning,
    TargetError,
}

/// The slots of `Now` that are read or written where they lie.
macro_rules! slots {
    ($($name:ident = $text:literal),+ $(,)?) => {
        #[derive(Clone, Copy)]
        pub enum Field { $($name),+ }

        impl Field {
            /// Their names, in the order of the variants.
            pub const NAMES: [&str; [$($text),+].len()] = [$($text),+];
        }

        const SLOTS: &[(&str, &str)] = &[$((NOW, concat!("Now.", $text))),+];
    };
}

slots! {
    Batch = "batch",
    Skipped = "skipped",
    LossGrad = "loss_grad",
    LossWeight = "loss_weight",
    Losses = "losses",
    OptName = "opt_name",
    Optimizers = "optimizers",
    Pred = "pred",
}

/// The fields of `schedule::Spec` have the names of these.
const SPEC: &[(&str, &str)] = &[
    (SCHEDULE, "Spec.name"),
    (SCHEDULE, "Spec.weight"),
    (SCHEDULE, "Spec.after"),
    (SCHEDULE, "Spec.before"),
    (SCHEDULE, "Spec.methods"),
    (SCHEDULE, "Spec.native"),
];

/// Every name of lumbre's Python that Rust asks for, as (module, name); an attribute's is `Class.name`.
#[pyfunction]
pub fn python_names() -> Vec<(&'static str, &'static str)> {
    [IMPORTS, ATTRIBUTES, CLASSES, SLOTS, SPEC].concat()
}
