"""The domain of web pages: drafts, the judge that renders them in a real browser, and the pictures it takes."""
