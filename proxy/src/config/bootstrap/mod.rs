//! The bootstrap loader: YAML 1.1, JSON, binary and text protos to one message.
