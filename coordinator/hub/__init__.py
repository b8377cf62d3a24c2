"""The coordinator's side of every link: enrolment, sessions, expert blobs."""
