/** One that ends before it can be told anything. */
throw new Error('it can not be loaded');
