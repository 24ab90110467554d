"""Problems as an online judge sets them: programs judged on hidden inputs, and sums with exact answers."""
