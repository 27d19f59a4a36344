//! Delays or aborts requests on purpose.
