//! Figures in the text form of Prometheus.
