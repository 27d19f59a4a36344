//! THE TABLES: every stat, by scope.
