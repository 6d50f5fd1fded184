"""What notebooks show that is longer than a plot: a row's results, the tables of `bench`, and things to play with."""
