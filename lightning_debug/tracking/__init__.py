"""What ran: recorded without secrets, and compared."""
