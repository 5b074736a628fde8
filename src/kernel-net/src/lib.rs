//! The way between the virtual network of pods and the kernel's: a device that answers for the pods' addresses.
//!
//! Linux only, and only where the process may make network devices. Without it pods reach each other all the same.
