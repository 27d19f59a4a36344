//! Values of the layered runtime, as configured. Later layers win.

use std::collections::BTreeMap;

/// One value of the runtime.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeValue {
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// A `FractionalPercent` written as an object.
    Fraction {
        numerator: u64,
        denominator: u64,
    },
}

/// Names and values over all layers.
#[derive(Debug, Clone, Default)]
pub struct RuntimeValues {
    /// Name and values of each layer, in order, for `/runtime`.
    pub layers: Vec<(String, BTreeMap<String, RuntimeValue>)>,
}
