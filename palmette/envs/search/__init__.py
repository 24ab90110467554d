"""Questions about a local web: pages, a search engine over them, and answers that are judged whatever their wording."""
