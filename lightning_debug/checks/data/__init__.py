"""What is wrong with the data that training sees."""
